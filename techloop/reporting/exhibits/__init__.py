"""What the page shows of each evaluation: pictures drawn from its arrays, sounds and tables."""
