"""Training: one loop (`loop.fit`), a task per model, and the latents between the two models."""
