"""The halting head's probabilities against the shares of answers that are right."""

from types import SimpleNamespace

import altair as alt

from deqrun.inference import expected_calibration_error, reliability
from deqrun.records.run import RunRecord
from deqrun.report.charts.keys import interval_tooltip, scope
from deqrun.report.charts.style import HEIGHT, MUTED, RUN_COLOURS, WIDTH, Figure, data
from deqrun.report.head import told_and_right

__all__ = ["calibration_of_the_head"]


def calibration_of_the_head(record: RunRecord, split: str = "test") -> Figure | None:
    """A reliability diagram: for each tenth of the probabilities the share right, its interval; None without a head."""
    found = told_and_right(record, split)
    if found is None:
        return None
    bins = reliability(*found)
    x = alt.X("told:Q", title="probability that the halting head tells", scale=alt.Scale(domain=[0, 1]))
    share = "share of answers that are right"
    y = alt.Y("right:Q", title=share, scale=alt.Scale(domain=[0, 1]))
    ideal = alt.Chart(data([{"told": 0.0, "right": 0.0}, {"told": 1.0, "right": 1.0}]))
    base = alt.Chart(data(bins))
    chart = alt.layer(
        ideal.mark_line(color=MUTED, strokeDash=[4, 3], strokeWidth=1).encode(x=x, y=y),
        base.mark_rule(color=RUN_COLOURS[0]).encode(
            x=x, y=alt.Y("right_low:Q", title=share), y2=alt.Y2("right_high:Q")
        ),
        base.mark_line(color=RUN_COLOURS[0], point={"size": 45, "filled": True}).encode(x=x, y=y, tooltip=_tooltip()),
    ).properties(width=WIDTH, height=HEIGHT)
    samples = SimpleNamespace(n=len(found[0]))
    caption = (
        f"{scope(record, [samples], split)}; {record.main_solver}, at each sample's last iterate. Bars: 95 % "
        "intervals. Dashed: probabilities that come true. "
        f"Expected calibration error {expected_calibration_error(bins):.3f}."
    )
    return Figure("calibration", "Does the halting head know when it is right?", caption, chart)


def _tooltip() -> list[alt.Tooltip]:
    return [
        alt.Tooltip("told:Q", title="told", format=".1%"),
        *interval_tooltip("right"),
        alt.Tooltip("n:Q", title="samples", format=","),
    ]
