"""Lines of text files: compression, encoding, and undecodable bytes."""

import codecs
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdcli.errors import DataError

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
UTF_8 = "utf-8-sig"
WINDOWS_1252 = "cp1252"
_BYTE_ORDER_MARKS = {
    # UTF-32 first: its mark begins with that of UTF-16.
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_CHUNK_BYTES = 1 << 20
_NON_ASCII = re.compile(r"\S*[^\x00-\x7f]\S*")
# Signs that stand beside letters in no Western text, and the second bytes of UTF-8's pairs.
_SIGN_BYTES = (
    b"\x82\x84\x86\x87\x88\x89\x8b\x93\x94\x98\x9b\xa2\xa3\xa4\xa5\xa6\xa8\xa9\xac\xae\xaf"
)
_SIGN_BYTES += b"\xb1\xb2\xb3\xb6\xb8\xb9\xbc\xbd\xbe\xbf\xd7\xf7"
_UTF_8_SECOND_BYTES = bytes({*range(0x80, 0xC0)} - {0x81, 0x8D, 0x8F, 0x90, 0x9D})
# Text of another encoding, read as Windows-1252, has control characters, signs within words,
# capitals after small letters, three letters in a row beyond a to z, or the halves of UTF-8.
_NOT_WINDOWS_1252 = re.compile(
    r"[\x00-\x08\x0b\x0e-\x1f\x7f]"
    rf"|[^\W\d_][{_SIGN_BYTES.decode(WINDOWS_1252)}][^\W\d_]"
    r"|[a-zà-öø-ÿ][À-ÖØ-ÞŠŒŽŸ]"
    r"|[À-ÖØ-öø-ÿŠšŒœŽžŸ]{3}"
    rf"|[ÂÃ][{_UTF_8_SECOND_BYTES.decode(WINDOWS_1252)}]|â€"
)


def uncompressed_suffix(path: Path) -> str:
    """The suffix of a file name in lower case, before that of a compression."""
    name = Path(path.name.lower())
    return (name.with_suffix("") if name.suffix in COMPRESSIONS else name).suffix


def open_decompressed(path: Path) -> Any:
    """Open a file as a binary stream, decompressed by its suffix."""
    compression = COMPRESSIONS.get(path.suffix.lower())
    if compression is None:
        return path.open("rb")
    import pyarrow as pa

    return pa.input_stream(str(path), compression=compression)


def iterate_lines(path: Path, encoding: str = UTF_8) -> Iterator[str]:
    """Iterate over the lines of a text file, with their line ends.

    Raises:
        DataError: A line can't be decoded or holds a NUL byte, or the file can't be read.
    """
    number = 0
    try:
        with io.TextIOWrapper(open_decompressed(path), encoding=encoding, newline="") as file:
            for number, line in enumerate(file, start=1):
                if "\0" in line:
                    raise DataError(
                        f"{path}:{number}: holds a NUL byte, which no text does.",
                        "Is it a text file, and whole?",
                    )
                yield line
    except UnicodeError as error:
        name = "UTF-8" if encoding == UTF_8 else encoding.upper()
        where = f"{path}:{_first_undecodable_line(path, encoding) or 1}"
        raise DataError(f"{where}: is not {name} text.", "Save it as UTF-8.") from error
    except OSError as error:
        raise _unreadable_file_error(path, number, error) from error


def detect_bom_encoding(path: Path) -> str:
    """Detect the encoding of a file by its byte order mark; UTF-8 without one."""
    try:
        with open_decompressed(path) as file:
            start = file.read(4)
    except OSError as error:
        raise _unreadable_file_error(path, 0, error) from error
    return next((name for mark, name in _BYTE_ORDER_MARKS.items() if start.startswith(mark)), UTF_8)


def find_windows_1252_word(path: Path) -> tuple[int, str] | None:
    """Find the first line and word that are not UTF-8 but Windows-1252; None if there are none.

    Almost every byte is valid in Windows-1252. So every line has to look like a Western European
    language.
    """
    try:
        if _first_undecodable_line(path, UTF_8) is None:
            return None
        first = None
        for number, line in enumerate(iterate_lines(path, WINDOWS_1252), start=1):
            if _NOT_WINDOWS_1252.search(line):
                return None
            if first is None and (word := _NON_ASCII.search(line)):
                first = number, word[0][:40]
    except (DataError, OSError):
        return None
    return first


def _unreadable_file_error(path: Path, number: int, error: OSError) -> DataError:
    if error.strerror:
        return DataError(f"{path}: can't be read: {error.strerror}.")
    return DataError(
        f"{path}:{number + 1}: can't be read on: {error}.", "Is it whole? Write it again."
    )


def _first_undecodable_line(path: Path, encoding: str) -> int | None:
    """The first line that can't be decoded; None if all can."""
    decoder, line = codecs.getincrementaldecoder(encoding)(), 1
    with open_decompressed(path) as file:
        while True:
            chunk = file.read(_CHUNK_BYTES)
            try:
                line += decoder.decode(chunk, final=not chunk).count("\n")
            except UnicodeDecodeError as error:
                before = bytes(error.object[: error.start])
                return line + before.decode(encoding, "ignore").count("\n")
            except UnicodeError:
                return line
            if not chunk:
                return None
