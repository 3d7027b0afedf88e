//! From plain numbers to the picture: one panel per scenario, in it one lane per node, all on one
//! scale of time. Nothing in here knows of servers or clocks.

use std::time::Duration;

use crate::report::plural;
use crate::svg::{Anchor, Area, Svg, width_of};

/// Where a time lies between two moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub from: Duration,
    pub to: Duration,
}

impl Span {
    pub fn length(self) -> Duration {
        self.to.saturating_sub(self.from)
    }
}

/// A two-phase commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    pub at: Duration,
    /// The restored copies have one half of it.
    pub is_torn: bool,
}

/// What happened on a node.
#[derive(Clone, Debug, Default)]
pub struct Lane {
    pub node: String,
    /// Those it coordinated, in order.
    pub commits: Vec<Commit>,
    pub copy: Option<Span>,
    /// Of writers that were connected to it.
    pub waits: Vec<Span>,
}

/// A scenario. Times count from its beginning.
#[derive(Clone, Debug, Default)]
pub struct Panel {
    pub heading: String,
    pub block: Option<Span>,
    pub lanes: Vec<Lane>,
    pub length: Duration,
    pub is_whole: bool,
    pub verdict: String,
}

/// All there is to see.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    pub title: String,
    pub subtitle: String,
    pub panels: Vec<Panel>,
}

const WIDTH: f64 = 1000.0;
const MARGIN: f64 = 24.0;
const PLOT_LEFT: f64 = 142.0;
const PLOT_RIGHT: f64 = WIDTH - MARGIN;
const PLOT_WIDTH: f64 = PLOT_RIGHT - PLOT_LEFT;

const HEADER_HEIGHT: f64 = 72.0;
const HEADING_HEIGHT: f64 = 28.0;
const LANE_HEIGHT: f64 = 52.0;
/// Above the lanes of a panel with a block, for what is said of it.
const STRIP_HEIGHT: f64 = 17.0;
const AXIS_HEIGHT: f64 = 24.0;
const PANEL_GAP: f64 = 20.0;
const LEGEND_ROW: f64 = 22.0;

/// Within a lane: the commits (and under a block the waits, where there are no commits) above, the
/// copy below.
const STROKE_TOP: f64 = 5.0;
const STROKE_LENGTH: f64 = 23.0;
const BAR_TOP: f64 = 33.0;
const BAR_HEIGHT: f64 = 12.0;

const SMALL: f64 = 11.0;

/// More strokes in a lane than this would run into one another.
const MOST_STROKES: usize = 300;

/// As many labels as fit on the axis without touching.
const MOST_TICKS: u128 = 12;

/// Of all pictures.
pub const STYLE: &str = "\
text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:#24292f}\
.title{font-size:19px;font-weight:600}\
.subtitle{font-size:12px;fill:#57606a}\
.heading{font-size:14px;font-weight:600}\
.node{font-size:12px;font-weight:600}\
.small{font-size:11px;fill:#57606a}\
.good{font-size:13px;font-weight:600;fill:#1a7f37}\
.bad{font-size:13px;font-weight:600;fill:#c4162a}\
.paper{fill:#fff;stroke:#d0d7de}\
.lane{fill:#f3f5f7}\
.grid{stroke:#d8dee4;stroke-width:1}\
.axis{stroke:#8c959f;stroke-width:1}\
.block{fill:#f5b301;fill-opacity:.2}\
.edge{stroke:#b98400;stroke-width:1;stroke-dasharray:3 2}\
.blocklabel{font-size:11px;font-weight:600;fill:#7a5600}\
.copy{fill:#2f6fdb}\
.commit{stroke:#4b5563;stroke-width:1;fill:none}\
.torn{stroke:#d1242f;stroke-width:1;fill:none}\
.wait{stroke:#8250df;stroke-width:1.2}\
.answer{fill:#8250df}\
.tick{fill:none;stroke:#1a7f37;stroke-width:2.2}\
.cross{fill:none;stroke:#c4162a;stroke-width:2.2}";

/// Draws it.
pub fn draw(picture: &Picture) -> String {
    let scale = Scale::of(picture);
    let thinning = Thinning::of(picture);
    let mut legend = Legend::new(picture, &thinning);
    let heights: Vec<f64> = picture.panels.iter().map(panel_height).collect();
    let panels_height: f64 = heights.iter().map(|height| height + PANEL_GAP).sum();
    let height = HEADER_HEIGHT + panels_height + legend.height() + MARGIN - LEGEND_ROW / 2.0;

    let mut svg = Svg::new();
    svg.rect("paper", Area { x: 0.5, y: 0.5, width: WIDTH - 1.0, height: height - 1.0 }, 8.0);
    svg.text("title", (MARGIN, 34.0), Anchor::Start, &picture.title);
    svg.text("subtitle", (MARGIN, 54.0), Anchor::Start, &picture.subtitle);
    let mut top = HEADER_HEIGHT;
    for (panel, height) in picture.panels.iter().zip(&heights) {
        draw_panel(&mut svg, panel, top, &scale, &thinning);
        top += height + PANEL_GAP;
    }
    legend.draw(&mut svg, top);
    svg.finish((WIDTH, height), STYLE, &picture.title, &describe(picture))
}

/// What the picture says, in words.
fn describe(picture: &Picture) -> String {
    let mut words = format!("{}.", picture.subtitle);
    for panel in &picture.panels {
        let commits: usize = panel.lanes.iter().map(|lane| lane.commits.len()).sum();
        words.push_str(&format!(
            " {}: {commits} two-phase commits from {} nodes in {}; ",
            panel.heading,
            panel.lanes.len(),
            in_seconds(panel.length)
        ));
        if let Some(block) = panel.block {
            let waits: usize = panel.lanes.iter().map(|lane| lane.waits.len()).sum();
            words.push_str(&format!(
                "a block of {}, until whose end {}; ",
                in_seconds(block.length()),
                plural(waits, "writer waited", "writers waited"),
            ));
        }
        words.push_str(&format!("{}.", panel.verdict));
    }
    words
}

/// Where a moment is on the page. All panels share it, so that lengths can be compared.
struct Scale {
    longest: Duration,
    step: Duration,
}

impl Scale {
    fn of(picture: &Picture) -> Scale {
        let longest = picture.panels.iter().map(|panel| panel.length).max().unwrap_or_default();
        let longest = longest.max(Duration::from_millis(1));
        Scale { longest, step: step_for(longest) }
    }

    fn x(&self, at: Duration) -> f64 {
        let share = at.as_secs_f64() / self.longest.as_secs_f64();
        PLOT_LEFT + PLOT_WIDTH * share.clamp(0.0, 1.0)
    }

    /// The labelled moments up to a certain one.
    fn ticks(&self, end: Duration) -> impl Iterator<Item = Duration> {
        let count = end.as_millis() / self.step.as_millis().max(1);
        (0..=u32::try_from(count).unwrap_or(0)).map(|number| self.step * number)
    }
}

/// The smallest of the usual steps with which not too many fit into a length.
pub fn step_for(length: Duration) -> Duration {
    let steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 60_000];
    let fits = |step: &&u64| length.as_millis() / u128::from(**step) <= MOST_TICKS;
    Duration::from_millis(steps.iter().find(fits).copied().unwrap_or(300_000))
}

/// The label of a moment on the axis, in milliseconds where the steps are that fine.
pub fn axis_label(at: Duration, step: Duration) -> String {
    let ms = at.as_millis();
    if ms == 0 {
        String::from("0")
    } else if step.as_millis() < 100 {
        format!("{ms} ms")
    } else if step.as_millis().is_multiple_of(1_000) {
        format!("{} s", ms / 1_000)
    } else {
        format!("{:.1} s", at.as_secs_f64())
    }
}

fn in_seconds(length: Duration) -> String {
    format!("{:.2} s", length.as_secs_f64())
}

/// Which commits are drawn when there are too many: every so-manieth, the same in every lane, so
/// that the lanes' densities can still be compared.
struct Thinning {
    every: usize,
}

impl Thinning {
    fn of(picture: &Picture) -> Thinning {
        let lanes = picture.panels.iter().flat_map(|panel| &panel.lanes);
        let most = lanes.map(|lane| lane.commits.len()).max().unwrap_or(0);
        Thinning { every: most.div_ceil(MOST_STROKES).max(1) }
    }

    fn kept<'a>(&self, commits: &'a [Commit]) -> impl Iterator<Item = &'a Commit> + use<'a> {
        commits.iter().step_by(self.every)
    }
}

fn panel_height(panel: &Panel) -> f64 {
    HEADING_HEIGHT + strip_height(panel) + panel.lanes.len() as f64 * LANE_HEIGHT + AXIS_HEIGHT
}

fn strip_height(panel: &Panel) -> f64 {
    if panel.block.is_some() { STRIP_HEIGHT } else { 0.0 }
}

fn draw_panel(svg: &mut Svg, panel: &Panel, top: f64, scale: &Scale, thinning: &Thinning) {
    draw_heading(svg, panel, top + 16.0);
    let strip_top = top + HEADING_HEIGHT;
    let lanes_top = strip_top + strip_height(panel);
    let bottom = lanes_top + panel.lanes.len() as f64 * LANE_HEIGHT;
    for (number, _) in panel.lanes.iter().enumerate() {
        let y = lanes_top + number as f64 * LANE_HEIGHT;
        // A lane ends with what was watched: beyond it, nothing is not silence.
        let width = scale.x(panel.length) - PLOT_LEFT;
        let area = Area { x: PLOT_LEFT, y, width, height: LANE_HEIGHT - 3.0 };
        svg.rect("lane", area, 3.0);
    }
    draw_axis(svg, panel.length, (lanes_top, bottom), scale);
    if let Some(block) = panel.block {
        draw_block(svg, block, (strip_top, bottom), scale);
    }
    for (number, lane) in panel.lanes.iter().enumerate() {
        let y = lanes_top + number as f64 * LANE_HEIGHT;
        draw_lane(svg, lane, (y, scale.x(panel.length)), scale, thinning);
    }
}

/// The scenario's name, with a sign for what came of it, which the text to the right tells.
fn draw_heading(svg: &mut Svg, panel: &Panel, baseline: f64) {
    svg.text("heading", (MARGIN + 19.0, baseline), Anchor::Start, &panel.heading);
    let class = if panel.is_whole { "good" } else { "bad" };
    svg.text(class, (PLOT_RIGHT, baseline), Anchor::End, &panel.verdict);
    // Drawn, since not every font has the signs.
    let x = MARGIN + 0.5;
    if panel.is_whole {
        svg.polyline(
            "tick",
            &[(x, baseline - 4.5), (x + 4.0, baseline - 0.5), (x + 11.0, baseline - 9.5)],
        );
    } else {
        svg.polyline("cross", &[(x + 1.0, baseline - 9.5), (x + 10.0, baseline - 0.5)]);
        svg.polyline("cross", &[(x + 10.0, baseline - 9.5), (x + 1.0, baseline - 0.5)]);
    }
}

fn draw_axis(svg: &mut Svg, end: Duration, (top, bottom): (f64, f64), scale: &Scale) {
    for at in scale.ticks(end) {
        let x = scale.x(at);
        svg.line("grid", (x, top), (x, bottom));
        // At the right edge a centred label would leave the picture.
        let anchor = if x > PLOT_RIGHT - 16.0 { Anchor::End } else { Anchor::Middle };
        svg.text("small", (x, bottom + 15.0), anchor, &axis_label(at, scale.step));
    }
    svg.line("axis", (PLOT_LEFT, bottom), (scale.x(end), bottom));
}

fn draw_block(svg: &mut Svg, block: Span, (top, bottom): (f64, f64), scale: &Scale) {
    let (left, right) = (scale.x(block.from), scale.x(block.to));
    let area = Area { x: left, y: top, width: (right - left).max(1.0), height: bottom - top };
    svg.rect("block", area, 0.0);
    for x in [left, right] {
        svg.line("edge", (x, top), (x, bottom));
    }
    let label = format!("two-phase writes blocked for {}", in_seconds(block.length()));
    let half = width_of(&label, SMALL) / 2.0;
    let centre = ((left + right) / 2.0).clamp(PLOT_LEFT + half, PLOT_RIGHT - half);
    svg.text("blocklabel", (centre, top + 12.0), Anchor::Middle, &label);
}

/// `end` is where the lane ends to the right.
fn draw_lane(
    svg: &mut Svg,
    lane: &Lane,
    (top, end): (f64, f64),
    scale: &Scale,
    thinning: &Thinning,
) {
    svg.text("node", (MARGIN, top + 18.0), Anchor::Start, &lane.node);
    let count = format!("{} commits", lane.commits.len());
    svg.text("small", (MARGIN, top + 33.0), Anchor::Start, &count);

    for (class, is_torn) in [("commit", false), ("torn", true)] {
        let at: Vec<f64> = thinning
            .kept(&lane.commits)
            .filter(|commit| commit.is_torn == is_torn)
            .map(|commit| scale.x(commit.at))
            .collect();
        svg.strokes(class, &at, top + STROKE_TOP, STROKE_LENGTH);
    }
    let room = STROKE_LENGTH / (lane.waits.len() + 1) as f64;
    for (number, wait) in lane.waits.iter().enumerate() {
        let y = top + STROKE_TOP + room * (number + 1) as f64;
        svg.line("wait", (scale.x(wait.from), y), (scale.x(wait.to), y));
        svg.dot("answer", (scale.x(wait.to), y), 2.0);
    }
    if let Some(copy) = lane.copy {
        draw_copy(svg, copy, (top, end), scale);
    }
}

fn draw_copy(svg: &mut Svg, copy: Span, (top, end): (f64, f64), scale: &Scale) {
    let (left, right) = (scale.x(copy.from), scale.x(copy.to));
    let (y, width) = (top + BAR_TOP, (right - left).max(1.5));
    svg.rect("copy", Area { x: left, y, width, height: BAR_HEIGHT }, 2.0);
    let label = format!("copied in {}", in_seconds(copy.length()));
    let baseline = y + BAR_HEIGHT - 2.0;
    if right + 6.0 + width_of(&label, SMALL) <= end {
        svg.text("small", (right + 6.0, baseline), Anchor::Start, &label);
    } else {
        svg.text("small", (left - 6.0, baseline), Anchor::End, &label);
    }
}

/// What a sign means.
#[derive(Clone, Copy)]
enum Sign {
    Stroke(&'static str),
    Bar,
    Band,
    Wait,
}

/// Only of the signs that are in the picture, in as many rows as they need.
struct Legend {
    rows: Vec<Vec<(Sign, String)>>,
}

const SIGN_WIDTH: f64 = 26.0;
const ENTRY_GAP: f64 = 22.0;

impl Legend {
    fn new(picture: &Picture, thinning: &Thinning) -> Legend {
        let lanes = || picture.panels.iter().flat_map(|panel| &panel.lanes);
        let commits: usize = lanes().map(|lane| lane.commits.len()).sum();
        let drawn: usize = lanes().map(|lane| thinning.kept(&lane.commits).count()).sum();
        let mut entries = vec![(
            Sign::Stroke("commit"),
            if thinning.every == 1 {
                String::from("two-phase commit")
            } else {
                format!("two-phase commit ({drawn} of {commits} drawn)")
            },
        )];
        if lanes().any(|lane| lane.commits.iter().any(|commit| commit.is_torn)) {
            entries.push((Sign::Stroke("torn"), String::from("restored only half")));
        }
        if lanes().any(|lane| lane.copy.is_some()) {
            entries.push((Sign::Bar, String::from("pg_basebackup")));
        }
        if picture.panels.iter().any(|panel| panel.block.is_some()) {
            entries.push((Sign::Band, String::from("the block")));
        }
        if lanes().any(|lane| !lane.waits.is_empty()) {
            entries.push((Sign::Wait, String::from("a writer waits, then goes on")));
        }

        let mut rows: Vec<Vec<(Sign, String)>> = Vec::new();
        let mut x = f64::INFINITY;
        for (sign, text) in entries {
            let width = SIGN_WIDTH + width_of(&text, SMALL);
            if x + width > WIDTH - MARGIN {
                rows.push(Vec::new());
                x = MARGIN;
            }
            x += width + ENTRY_GAP;
            if let Some(row) = rows.last_mut() {
                row.push((sign, text));
            }
        }
        Legend { rows }
    }

    fn height(&self) -> f64 {
        self.rows.len() as f64 * LEGEND_ROW
    }

    fn draw(&mut self, svg: &mut Svg, top: f64) {
        for (number, row) in self.rows.iter().enumerate() {
            let mut x = MARGIN;
            let middle = top + number as f64 * LEGEND_ROW + 6.0;
            for (sign, text) in row {
                draw_sign(svg, *sign, (x, middle));
                svg.text("small", (x + SIGN_WIDTH, middle + 4.0), Anchor::Start, text);
                x += SIGN_WIDTH + width_of(text, SMALL) + ENTRY_GAP;
            }
        }
    }
}

fn draw_sign(svg: &mut Svg, sign: Sign, (x, middle): (f64, f64)) {
    let area = |height: f64| Area { x, y: middle - height / 2.0, width: 20.0, height };
    match sign {
        Sign::Stroke(class) => {
            let at: Vec<f64> = (0..5).map(|number| x + 2.0 + f64::from(number) * 4.0).collect();
            svg.strokes(class, &at, middle - 6.0, 12.0);
        }
        Sign::Bar => svg.rect("copy", area(BAR_HEIGHT - 2.0), 2.0),
        Sign::Band => {
            svg.rect("block", area(14.0), 0.0);
            for edge in [x, x + 20.0] {
                svg.line("edge", (edge, middle - 7.0), (edge, middle + 7.0));
            }
        }
        Sign::Wait => {
            svg.line("wait", (x, middle), (x + 18.0, middle));
            svg.dot("answer", (x + 18.0, middle), 2.0);
        }
    }
}

#[cfg(test)]
mod tests;
