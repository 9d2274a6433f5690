"""What several rooms need. No room itself: it knows no kind of heads."""
