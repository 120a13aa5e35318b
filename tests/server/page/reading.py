"""The texts, links and forms of a page, by an HTML parser."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = frozenset({"meta", "link", "input", "br", "hr", "img", "wbr"})


@dataclass
class Form:
    """A form: where it leads, what it sends by itself, and its buttons' words and values."""

    attributes: dict[str, str]
    fields: dict[str, str] = field(default_factory=dict)
    buttons: list[str] = field(default_factory=list)

    def pressed(self, button: str) -> dict[str, str]:
        """What is sent when a button is pressed."""
        assert button in self.buttons
        return {**self.fields, "do": button}


class Document(HTMLParser):
    """A page, read.

    Attributes:
        texts: the words in each element that has an id, by the id; those of the whole page by ``""``.
        links: where links lead.
        forms: in their order.
        tags: every tag with its attributes.
        unclosed: what was opened or closed out of order.
    """

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: dict[str, str] = {"": ""}
        self.links: list[str] = []
        self.forms: list[Form] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.unclosed: list[str] = []
        self._open: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        self.unclosed += [tag for tag, _ in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        about = {name: value or "" for name, value in attrs}
        self.tags.append((tag, about))
        if tag == "a" and "href" in about:
            self.links.append(about["href"])
        if tag == "form":
            self.forms.append(Form(about))
        if tag == "input" and self.forms and "name" in about:
            self.forms[-1].fields[about["name"]] = about.get("value", "")
        if tag == "button" and self.forms and "value" in about:
            self.forms[-1].buttons.append(about["value"])
        if tag not in _VOID:
            self._open.append((tag, about.get("id", "")))
            self.texts.setdefault(about.get("id", ""), "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1][0] != tag:
            self.unclosed.append(f"/{tag}")
            return
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if any(tag in ("style", "script") for tag, _ in self._open):
            return
        for name in {name for _, name in self._open} | {""}:
            self.texts[name] += " ".join(data.split()) + " " if data.strip() else ""

    @property
    def causes(self) -> list[Form]:
        """The forms of causes."""
        return [form for form in self.forms if "retry cause" in form.buttons]

    @property
    def retries(self) -> list[Form]:
        """The forms of single failures."""
        return [form for form in self.forms if "retry" in form.buttons]
