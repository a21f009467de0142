"""The networks: the audio VAE, the latent VAE, and the discriminators that train them."""
