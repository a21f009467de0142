"""The Freesound Loop Dataset: where it is published, read and filtered, and what listeners say."""
