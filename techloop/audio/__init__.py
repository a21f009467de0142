"""Audio files and signals: reading, writing, spectra, levels, descriptors."""
