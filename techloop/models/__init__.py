"""The networks: the audio VAE, the latent VAE, and the discriminator of WAE-GAN."""
