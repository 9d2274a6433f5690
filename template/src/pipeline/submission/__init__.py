"""From predictions to what Kaggle takes: the submission table, its check, its file."""
