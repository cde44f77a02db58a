"""pytest with nbval and nothing else: what the runner starts, quick enough for one notebook.

    python -m aiinfra_lab.course.nbval_main --nbval folder …

Of the four seconds that a plain start takes, plugins of other packages take one, and a grammar
for internationalised addresses, which jsonschema loads where JupyterLab is installed and no
notebook needs, takes one and a half.
"""

from __future__ import annotations

import os
import sys


def skip_address_grammar() -> None:
    """Let jsonschema find no grammar of addresses, as where JupyterLab is not installed."""
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]


def main() -> int:
    """Run pytest on this process's arguments."""
    skip_address_grammar()
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    import pytest

    plugins = ("-p", "nbval.plugin", "-p", "aiinfra_lab.course.nbval_plugin")
    return int(pytest.main([*plugins, *sys.argv[1:]]))


if __name__ == "__main__":
    sys.exit(main())
