"""The demo competition: what writes it into `data/raw`, and its leaderboard. Nothing in `src` knows of it."""
