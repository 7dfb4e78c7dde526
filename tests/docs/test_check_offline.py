"""The check that built pages load nothing from elsewhere: it must see each way of loading."""

from pathlib import Path

import pytest
from scripts import names_of

check_offline = names_of("docs/check_offline.py")
REMOTE = "https://example.org/x"


@pytest.mark.parametrize(
    "html",
    [
        f'<script src="{REMOTE}"></script>',
        f'<script defer="defer" src="{REMOTE.removeprefix("https:")}"></script>',
        f'<link rel="stylesheet" type="text/css" href="{REMOTE}">',
        f'<link href="{REMOTE}" rel="shortcut icon"/>',
        f'<link rel="preconnect" href="{REMOTE}">',
        f'<img src="{REMOTE}" alt="">',
        f'<img src="data:image/png;base64,AA==" srcset="{REMOTE} 2x, {REMOTE} 3x">',
        f'<iframe src="{REMOTE}"></iframe>',
        f'<object data="{REMOTE}"></object>',
        f"<style>body {{ background: url('{REMOTE}') }}</style>",
        f'<style>@import "{REMOTE}";</style>',
        f'<p style="background: url({REMOTE})">text</p>',
        f'<svg><image href="{REMOTE}"/></svg>',
        '<script src="missing.js"></script>',
        '<img src="file:///etc/missing.png">',
    ],
)
def test_what_leaves_the_folder_is_reported(tmp_path: Path, html: str) -> None:
    (tmp_path / "index.html").write_text(f"<!doctype html><body>{html}</body>")
    assert check_offline.problems(tmp_path)


def test_style_sheets_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "a.css").write_text(f"@font-face {{ src: url({REMOTE}) format('woff2') }}")
    assert check_offline.problems(tmp_path) == [f"a.css: loads {REMOTE} from elsewhere"]


def test_what_stays_is_not(tmp_path: Path) -> None:
    (tmp_path / "a b.js").write_text("")
    (tmp_path / "a.css").write_text("i { background: url(data:image/svg+xml;utf8,x) }")
    (tmp_path / "index.html").write_text(
        f'<link rel="canonical" href="{REMOTE}"><link rel="stylesheet" href="a.css?v=1">'
        f'<script src="a%20b.js"></script><a href="{REMOTE}">{REMOTE}</a>'
        '<svg><use href="#icon"></use></svg><style>p { color: red }</style>'
    )
    assert check_offline.problems(tmp_path) == []
