"""What happened: runs in MLflow."""
