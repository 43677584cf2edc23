"""Keys stay with the control that has the focus, in every form of the course.

JupyterLab and Notebook 7 take arrow and letter keys away from a focused control unless that element itself carries
`data-lm-suppress-shortcuts`: "b" would insert a cell. ipywidgets cannot set attributes and its HTML widget runs no
<script>, but events of its elements are handled, so a hidden picture that has loaded makes the page set the attribute
on whatever receives the focus inside a form. It also makes lines of text live regions, for screen readers, and lets a
letter press the button of its row that bears it.
"""

from collections.abc import Sequence

import ipywidgets

KEYS = """<img alt="" src="data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=" onload="
if (!window.llmkitKeys) {
  window.llmkitKeys = true;
  document.addEventListener('focusin', event => {
    const frame = event.target.closest('.llmkit-frame');
    if (!frame) return;
    event.target.setAttribute('data-lm-suppress-shortcuts', 'true');
    frame.querySelectorAll('.llmkit-said').forEach(line => line.setAttribute('role', 'status'));
  });
  document.addEventListener('keydown', event => {
    const row = event.target.closest('.llmkit-frame .widget-toggle-buttons');
    if (!row || event.ctrlKey || event.altKey || event.metaKey) return;
    const buttons = [...row.querySelectorAll('button')];
    const meant = buttons.find(button => button.textContent.trim() === event.key.toLowerCase());
    if (meant) { meant.focus(); meant.click(); }
  });
}">"""


def keyed(parts: Sequence[ipywidgets.Widget]) -> ipywidgets.VBox:
    """The parts one below another, as a form that keeps its keys."""
    keys = ipywidgets.HTML(KEYS, layout={"display": "none"})
    return ipywidgets.VBox([*parts, keys]).add_class("llmkit-frame")
