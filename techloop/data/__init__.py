"""From recordings to a dataset of loops on the beat grid."""
