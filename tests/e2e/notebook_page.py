"""One notebook in JupyterLab, handled and read the way a user does it.

Nothing here sleeps: every step waits for what a user would see next.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page, Response

# A cell that trains models, on two cores that others use too.
RUN_MS = 180_000
RAN = re.compile(r"^\[\d+\]:$")
RUNNING = "[*]:"

# Notes each state of the progress bar that JupyterLab shows, with the prompt of its cell.
WATCH_PROGRESS = """panel => {
    const look = () => {
        const bar = panel.querySelector("progress");
        const prompt = bar?.closest(".jp-Cell").querySelector(".jp-InputArea-prompt");
        if (bar) panel.seenProgress.push([bar.value / bar.max, prompt.textContent]);
    };
    panel.seenProgress = [];
    new MutationObserver(look).observe(panel, {childList: true, subtree: true});
}"""

# Names of the colours that cover at least a thousandth of a picture; grey is none.
HUES = """async picture => {
    await picture.decode();
    const [width, height] = [picture.naturalWidth, picture.naturalHeight];
    const canvas = new OffscreenCanvas(width, height).getContext("2d");
    canvas.drawImage(picture, 0, 0);
    const pixels = canvas.getImageData(0, 0, width, height).data;
    const counts = {};
    for (let i = 0; i < pixels.length; i += 4) {
        const [r, g, b] = pixels.subarray(i, i + 3);
        const [most, least] = [Math.max(r, g, b), Math.min(r, g, b)];
        if (most - least < 60) continue;
        const third = most === r ? (g - b) : most === g ? (b - r) : (r - g);
        const corner = most === r ? 0 : most === g ? 120 : 240;
        const degrees = (60 * third / (most - least) + corner + 360) % 360;
        const hue = degrees < 20 || degrees >= 330 ? "red" : degrees < 70 ? "yellow"
            : degrees < 170 ? "green" : degrees < 270 ? "blue" : "purple";
        counts[hue] = (counts[hue] ?? 0) + 1;
    }
    return Object.keys(counts).filter(hue => counts[hue] > width * height / 1000);
}"""


class NotebookPage:
    """The notebook that is open in ``page``; ``file`` is where the server keeps it."""

    def __init__(self, page: Page, file: Path) -> None:
        self.page = page
        self.file = file
        self.ids = [cell["id"] for cell in self.saved()["cells"]]
        self.panel = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")
        self.cells = self.panel.locator(".jp-Notebook .jp-Cell")
        self.prompts = self.panel.locator(".jp-CodeCell .jp-InputArea-prompt")
        self.errors = self.panel.locator(
            "[data-mime-type='application/vnd.jupyter.error'],"
            "[data-mime-type='application/vnd.jupyter.stderr']"
        )

    def loaded(self) -> NotebookPage:
        """Wait until all cells are there and the kernel is idle."""
        from playwright.sync_api import expect

        expect(self.panel).to_be_visible()
        # Before the file has arrived the panel shows one empty cell.
        expect(self.cells).to_have_count(len(self.ids))
        self.idle()
        return self

    def idle(self) -> None:
        """Wait until the status bar says that the kernel has nothing to do."""
        from playwright.sync_api import expect

        expect(self.page.locator("#jp-main-statusbar")).to_contain_text("| Idle", timeout=RUN_MS)

    def choose(self, menu: str, *entries: str) -> None:
        """Click through the menu bar."""
        self.page.get_by_role("menuitem", name=menu, exact=True).click()
        for entry in entries:
            self.page.locator(".lm-Menu-itemLabel").get_by_text(entry, exact=True).click()

    def run_all(self) -> None:
        """Run every cell and wait for the last."""
        from playwright.sync_api import expect

        # The counts of a stored run must not pass for those of this one.
        self.choose("Edit", "Clear Outputs of All Cells")
        code = [cell for cell in self.saved()["cells"] if cell["cell_type"] == "code"]
        expect(self.prompts).to_have_text(["[ ]:"] * len(code))
        self.choose("Run", "Run All Cells")
        expect(self.prompts).to_have_text([RAN] * len(code), timeout=RUN_MS)
        self.idle()

    def cell(self, name: str) -> Locator:
        """The cell with the id ``name``, scrolled to where a user sees it."""
        cell = self.cells.nth(self.ids.index(name))
        cell.scroll_into_view_if_needed()
        return cell

    def output(self, name: str) -> Locator:
        """What the cell displays."""
        return self.cell(name).locator(".jp-OutputArea-output")

    def hues(self, name: str) -> set[str]:
        """The colours in the cell's only picture; an empty one has none."""
        return set(self.output(name).locator("img").evaluate(HUES))

    def watch_progress(self) -> Callable[[], list[tuple[float, bool]]]:
        """Watch the progress bar from now on.

        What comes back gives the states seen so far: the share that was done, and whether the
        cell was still running. Unlike a look now and then, it misses none on a busy machine.
        """
        self.panel.evaluate(WATCH_PROGRESS)

        def seen() -> list[tuple[float, bool]]:
            states = self.panel.evaluate("panel => panel.seenProgress")
            return [(share, prompt == RUNNING) for share, prompt in states]

        return seen

    def source(self, name: str) -> str:
        """The cell's code as the editor shows it."""
        return "\n".join(self.cell(name).locator(".cm-line").all_text_contents())

    def write(self, name: str, code: str) -> None:
        """Replace the code of the cell, by keyboard."""
        self.cell(name).locator(".cm-content").click()
        self.page.keyboard.press("ControlOrMeta+a")
        self.page.keyboard.insert_text(code)

    def run(self, name: str) -> None:
        """Run the cell and wait for its end."""
        from playwright.sync_api import expect

        prompt = self.cell(name).locator(".jp-InputArea-prompt")
        before = prompt.text_content() or ""
        self.cell(name).locator(".cm-content").click()
        self.page.keyboard.press("ControlOrMeta+Enter")
        expect(prompt).not_to_have_text(before)
        expect(prompt).to_have_text(RAN, timeout=RUN_MS)
        self.idle()

    def save(self) -> dict[str, Any]:
        """Save by keyboard, wait until it is done, and give what the file then holds."""
        from playwright.sync_api import expect

        tab = self.page.locator("#jp-main-dock-panel .lm-TabBar-tab.lm-mod-current")
        # The tab alone would not do: where nothing was changed it says at once that all is saved,
        # while the server is still writing.
        with self.page.expect_response(is_save):
            self.page.keyboard.press("ControlOrMeta+s")
        expect(tab.and_(self.page.locator(".jp-mod-dirty"))).to_have_count(0)
        return self.saved()

    def saved(self) -> dict[str, Any]:
        """The notebook's file."""
        notebook: dict[str, Any] = json.loads(self.file.read_text("utf-8"))
        return notebook


def is_save(response: Response) -> bool:
    """Whether the server has answered that it keeps a file."""
    return response.request.method == "PUT" and "/api/contents/" in response.url


Open = Callable[..., NotebookPage]
