"""The Freesound Loop Dataset as published: some 9,500 loops, about 3,000 judged by listeners.

The archive, or the folder `FSL10K` that it is unpacked into, holds `metadata.json` (by number of
the sound: name, username, licence, tempo by the uploader), `audio/wav/` with
`<sound>_<user>.wav.wav`, and analyses that are not used here. The judgements of listeners are in
`annotations/<listener>/sound-<sound>.json`, inside the archive or in `annotations.zip` beside it.

References:
    Ramires et al., The Freesound Loop Dataset and Annotation Tool, ISMIR 2020.
    https://zenodo.org/records/3967852
"""

TOP = "FSL10K"
ARCHIVE = "FSL10K.zip"
ANNOTATIONS = "annotations.zip"
URL = f"https://zenodo.org/records/3967852/files/{ARCHIVE}?download=1"
RECORD = "https://zenodo.org/api/records/3967852"  # sizes and checksums of the files
