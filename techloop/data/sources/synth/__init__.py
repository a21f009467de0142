"""The built-in synthesiser: a drum machine and acid bass that play techno on the grid."""
