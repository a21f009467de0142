"""What models are measured by: computed here, drawn in `reporting`."""
