"""What surrounds the stages: costs, profiles, a doctor."""
