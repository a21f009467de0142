"""Units of differences of descriptors."""

from techloop.audio.descriptors import UNITS

DIFFERENCE_UNITS = UNITS | {"loudness_db": "dB"}  # two levels in LUFS differ by decibels
