"""Names that every dataset of loops uses: its splits and the columns of its reject table."""

SPLITS = ("train", "validation", "test")
HELD_OUT = ("validation", "test")  # what no model is trained on
REJECTED_COLUMNS = ("file", "bar", "reason", "detail", "value", "limit")
