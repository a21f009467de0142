"""What happened: each stage is an MLflow run, and a parent groups those of one state."""
