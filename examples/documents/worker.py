"""What is in a PDF: its text, and a picture of its first page, by PDFium."""

import io
from contextlib import closing
from dataclasses import dataclass

import pypdfium2 as pdfium
from pypool import command


@dataclass
class Document:
    """A document's text, page by page, and its first page as a PNG."""

    text: list[str]
    first_page: bytes


@command
def read(pdf: bytes, pixels: int = 800) -> Document:
    """Read a PDF; the picture's longer side has so many pixels. ValueError: it is no PDF that can be read."""
    try:
        document = pdfium.PdfDocument(pdf)
    except pdfium.PdfiumError as error:
        raise ValueError(f"this is no PDF that can be read: {error}") from None
    with closing(document):
        try:
            text = [page_text(document[index]) for index in range(len(document))]
            first = document[0]
            image = first.render(scale=pixels / max(first.get_size())).to_pil()
        except pdfium.PdfiumError as error:
            raise ValueError(f"this PDF is damaged: {error}") from None
    png = io.BytesIO()
    image.save(png, "PNG")
    return Document(text, png.getvalue())


def page_text(page: pdfium.PdfPage) -> str:
    """Return the text, and give the page's memory back: a document may have thousands."""
    with closing(page), closing(page.get_textpage()) as text:
        return str(text.get_text_bounded()).replace("\r\n", "\n")
