"""Charts as SVG, made on the server. Numbers only: every text beside a chart is the template's."""

from collections.abc import Sequence

from markupsafe import Markup

_WIDTH, _HEIGHT = 120, 28


def sparkline(values: Sequence[float | None], *, highest: float | None = None) -> Markup:
    """Return a line through *values*; None is a gap."""
    top = max(highest or 0.0, max((value for value in values if value is not None), default=0.0)) or 1.0
    step = _WIDTH / max(len(values) - 1, 1)
    path, is_drawing = [], False
    for number, value in enumerate(values):
        if value is not None:
            x, y = number * step, _HEIGHT - 2 - value / top * (_HEIGHT - 4)
            path.append(f"{'L' if is_drawing else 'M'}{x:.1f} {y:.1f}{'' if is_drawing else 'h1'}")
        is_drawing = value is not None
    return _svg(f'<path class="trace" d="{"".join(path)}"/>' if path else "")


def stacked_bars(good: Sequence[int], bad: Sequence[int]) -> Markup:
    """Return a bar for each pair: successes, and failures on top."""
    top = max((one + other for one, other in zip(good, bad, strict=True)), default=0) or 1
    width = _WIDTH / max(len(good), 1)
    parts = []
    for number, (one, other) in enumerate(zip(good, bad, strict=True)):
        up, over = one / top * _HEIGHT, other / top * _HEIGHT
        x = number * width
        parts += [_rect("ink", x, _HEIGHT - up, width - 0.6, up)] if one else []
        parts += [_rect("bad", x, _HEIGHT - up - over, width - 0.6, over)] if other else []
    return _svg("".join(parts))


def share_bar(share: float, kind: str = "ink") -> Markup:
    """Return a bar that is filled to *share*, from 0 to 1."""
    filled = min(max(share, 0.0), 1.0) * 100
    return Markup(  # noqa: S704 -- numbers and our own words only
        '<svg class="bar-chart" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true" focusable="false">'
        f'<rect class="track" width="100" height="6"/><rect class="{kind}" width="{filled:.2f}" height="6"/></svg>'
    )


def span_bar(start: float, length: float, kind: str) -> Markup:
    """Return a bar of a waterfall: *start* and *length* are shares of the time axis."""
    width = max(length * 100, 0.5)
    x = min(start * 100, 100 - width)
    return Markup(  # noqa: S704 -- numbers and our own words only
        '<svg class="span-bar" aria-hidden="true" focusable="false">'
        f'<rect class="{kind}" x="{x:.3f}%" width="{width:.3f}%" y="0" height="100%" rx="2"/></svg>'
    )


def _rect(kind: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def _svg(content: str) -> Markup:
    return Markup(  # noqa: S704 -- numbers and our own words only
        f'<svg class="spark" viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" aria-hidden="true" '
        f'focusable="false">{content}</svg>'
    )
