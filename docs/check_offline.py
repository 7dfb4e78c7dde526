"""Fail if a built page would load anything from the network, or a file that is not there.

    python docs/check_offline.py docs/_build/html

Links that a reader follows by hand (`<a href="https://...">`) are fine; scripts, style sheets,
fonts, images and frames must lie in the folder, so that the documentation opens from a disk.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# <link rel="..."> that a browser fetches by itself (not "next", "canonical", "search" ...).
FETCHED_RELS = {
    "stylesheet", "icon", "shortcut", "apple-touch-icon", "manifest",
    "preload", "prefetch", "modulepreload", "preconnect", "dns-prefetch",
}
CSS_REFERENCE = re.compile(r"""url\(\s*["']?([^"')]+)|@import\s+["']([^"']+)""")


class LoadedByPage(HTMLParser):
    """Collects the address of everything that a page loads without being asked."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.in_style = tag == "style"
        self.addresses += css_addresses(values.get("style", ""))
        if tag == "link":
            if FETCHED_RELS & set(values.get("rel", "").lower().split()):
                self.addresses.append(values.get("href", ""))
            return
        self.addresses += [values[name] for name in ("src", "poster") if name in values]
        if tag == "object" and "data" in values:
            self.addresses.append(values["data"])
        if tag in ("image", "use"):  # inside SVG
            self.addresses += [values[n] for n in ("href", "xlink:href") if n in values]
        if "srcset" in values:
            self.addresses += [part.split()[0] for part in values["srcset"].split(",")]

    def handle_data(self, data: str) -> None:
        if self.in_style:
            self.addresses += css_addresses(data)

    def handle_endtag(self, tag: str) -> None:
        self.in_style = False


def css_addresses(css: str) -> list[str]:
    """What a piece of CSS loads."""
    return [a or b for a, b in CSS_REFERENCE.findall(css)]


def problems(folder: Path) -> list[str]:
    """One line for each address in `folder`'s pages and style sheets that does not stay in it."""
    found = []
    for file in sorted(folder.rglob("*")):
        if file.suffix == ".html":
            page = LoadedByPage()
            page.feed(file.read_text(encoding="utf-8"))
            addresses = page.addresses
        elif file.suffix in (".css", ".svg"):
            addresses = css_addresses(file.read_text(encoding="utf-8"))
        else:
            continue
        for address in addresses:
            parts = urlsplit(address)
            if parts.scheme == "data" or not (parts.scheme or parts.netloc or parts.path):
                continue  # inline, or a place in the same file
            where = file.relative_to(folder)
            if parts.scheme or parts.netloc:
                found.append(f"{where}: loads {address} from elsewhere")
            elif not (file.parent / unquote(parts.path)).is_file():
                found.append(f"{where}: loads {address}, which is not there")
    return found


def main() -> int:
    folder = Path(sys.argv[1])
    if not (folder / "index.html").is_file():
        print(f"{folder}: no index.html; build the documentation first", file=sys.stderr)
        return 2
    found = problems(folder)
    print("\n".join(found), file=sys.stderr, end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
