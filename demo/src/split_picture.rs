//! From plain numbers to the picture of a split: a lane for each writer, in it each statement's time, on one scale; the
//! steps of the split across all of them. Nothing in here knows of servers or clocks.

use std::time::Duration;

use crate::report::milliseconds;
use crate::svg::{Anchor, Area, Svg, width_of};
use crate::timeline::{STYLE, axis_label, step_for};

/// A statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    pub sent: Duration,
    pub took: Duration,
}

/// One writer's.
#[derive(Clone, Debug, Default)]
pub struct Lane {
    /// Where it was connected.
    pub node: String,
    /// Whether its shards move.
    pub moving: bool,
    /// In order.
    pub beats: Vec<Beat>,
}

impl Lane {
    fn sorted(&self) -> Vec<Duration> {
        let mut took: Vec<Duration> = self.beats.iter().map(|beat| beat.took).collect();
        took.sort_unstable();
        took
    }
}

/// A step of the split, when it was told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub name: String,
    pub at: Duration,
}

/// All there is to see. Times count from its beginning.
#[derive(Clone, Debug, Default)]
pub struct SplitPicture {
    pub title: String,
    pub subtitle: String,
    pub lanes: Vec<Lane>,
    pub steps: Vec<Step>,
    /// When the call was made, and when it came back.
    pub call: (Duration, Duration),
    pub length: Duration,
    pub is_whole: bool,
    pub verdict: String,
}

impl SplitPicture {
    /// The longest statement that was under way during the call, of writers of shards that move or of the others.
    pub fn longest(&self, moving: bool) -> Option<Duration> {
        let lanes = self.lanes.iter().filter(|lane| lane.moving == moving);
        lanes.filter_map(|lane| self.longest_of(lane)).map(|beat| beat.took).max()
    }

    fn longest_of<'a>(&self, lane: &'a Lane) -> Option<&'a Beat> {
        let during = |beat: &&Beat| beat.sent < self.call.1 && beat.sent + beat.took > self.call.0;
        lane.beats.iter().filter(during).max_by_key(|beat| beat.took)
    }
}

const WIDTH: f64 = 1000.0;
const MARGIN: f64 = 24.0;
const PLOT_LEFT: f64 = 262.0;
const PLOT_RIGHT: f64 = WIDTH - MARGIN;
const HEADER_HEIGHT: f64 = 100.0;
/// Rows of step names, so that they do not run into one another.
const NAME_ROWS: usize = 5;
const NAME_HEIGHT: f64 = 13.0;
const LANE_HEIGHT: f64 = 54.0;
const LANE_GAP: f64 = 6.0;
const AXIS_HEIGHT: f64 = 26.0;
const LEGEND_HEIGHT: f64 = 34.0;
const SMALL: f64 = 11.0;
/// The scale of a lane, in milliseconds: what takes less is at its bottom, what takes more at its top.
const SHORTEST: f64 = 0.3;
const LONGEST: f64 = 1_000.0;
/// More bars in a lane than this run into one another; the longest are always drawn.
const MOST_BARS: usize = 350;
/// What took as long as this, and this many times as long as usual, is a wait.
const WAIT: (Duration, u32) = (Duration::from_millis(10), 4);

const MORE_STYLE: &str = "\
.moves{stroke:#8250df;stroke-width:1;fill:none}\
.stays{stroke:#1a7f37;stroke-width:1;fill:none}\
.step{stroke:#b98400;stroke-width:1;stroke-dasharray:3 2}\
.waited{font-size:11px;font-weight:600;fill:#8250df}";

/// Draws it.
pub fn draw(picture: &SplitPicture) -> String {
    let names_top = HEADER_HEIGHT - 14.0;
    let lanes_top = names_top + NAME_ROWS as f64 * NAME_HEIGHT + 4.0;
    let bottom = lanes_top + picture.lanes.len() as f64 * (LANE_HEIGHT + LANE_GAP);
    let height = bottom + AXIS_HEIGHT + LEGEND_HEIGHT;
    let mut svg = Svg::new();
    svg.rect("paper", Area { x: 0.5, y: 0.5, width: WIDTH - 1.0, height: height - 1.0 }, 8.0);
    svg.text("title", (MARGIN, 34.0), Anchor::Start, &picture.title);
    svg.text("subtitle", (MARGIN, 54.0), Anchor::Start, &picture.subtitle);
    let class = if picture.is_whole { "good" } else { "bad" };
    svg.text(class, (MARGIN, 76.0), Anchor::Start, &picture.verdict);
    for number in 0..picture.lanes.len() {
        let y = lanes_top + number as f64 * (LANE_HEIGHT + LANE_GAP);
        let width = PLOT_RIGHT - PLOT_LEFT;
        svg.rect("lane", Area { x: PLOT_LEFT, y, width, height: LANE_HEIGHT }, 3.0);
    }
    let x = |at: Duration| x_of(picture, at);
    let (from, to) = (x(picture.call.0), x(picture.call.1));
    let call =
        Area { x: from, y: lanes_top, width: (to - from).max(1.0), height: bottom - lanes_top };
    svg.rect("block", call, 0.0);
    draw_axis(&mut svg, picture, bottom);
    draw_steps(&mut svg, picture, (names_top, bottom));
    for (number, lane) in picture.lanes.iter().enumerate() {
        draw_lane(&mut svg, picture, lane, lanes_top + number as f64 * (LANE_HEIGHT + LANE_GAP));
    }
    draw_legend(&mut svg, bottom + AXIS_HEIGHT + 10.0);
    let style = format!("{STYLE}{MORE_STYLE}");
    svg.finish((WIDTH, height), &style, &picture.title, &describe(picture))
}

fn x_of(picture: &SplitPicture, at: Duration) -> f64 {
    let share = at.as_secs_f64() / picture.length.as_secs_f64().max(0.001);
    PLOT_LEFT + (PLOT_RIGHT - PLOT_LEFT) * share.clamp(0.0, 1.0)
}

/// How high the bar of a time is: ten times as long is as much higher each time.
fn height_of(took: Duration) -> f64 {
    let ms = (took.as_secs_f64() * 1e3).clamp(SHORTEST, LONGEST);
    (LANE_HEIGHT - 6.0) * (ms / SHORTEST).log10() / (LONGEST / SHORTEST).log10()
}

/// What the picture says, in words.
fn describe(picture: &SplitPicture) -> String {
    let mut words = format!("{}. {}.", picture.subtitle, picture.verdict);
    for lane in &picture.lanes {
        let whose = if lane.moving { "move" } else { "stay" };
        let longest = lane.sorted().last().copied().unwrap_or_default();
        words.push_str(&format!(
            " Writer at {}, of shards that {whose}: {} statements, the longest {}.",
            lane.node,
            lane.beats.len(),
            milliseconds(longest)
        ));
    }
    words
}

fn draw_axis(svg: &mut Svg, picture: &SplitPicture, bottom: f64) {
    let step = step_for(picture.length);
    let count = picture.length.as_millis() / step.as_millis().max(1);
    for number in 0..=u32::try_from(count).unwrap_or(0) {
        let at = step * number;
        let x = x_of(picture, at);
        let anchor = if x > PLOT_RIGHT - 16.0 { Anchor::End } else { Anchor::Middle };
        svg.text("small", (x, bottom + 14.0), anchor, &axis_label(at, step));
    }
    svg.line("axis", (PLOT_LEFT, bottom), (PLOT_RIGHT, bottom));
}

/// Each step's name above its line, in the first row that has room for it.
fn draw_steps(svg: &mut Svg, picture: &SplitPicture, (top, bottom): (f64, f64)) {
    let mut ends = [f64::NEG_INFINITY; NAME_ROWS];
    for step in &picture.steps {
        let x = x_of(picture, step.at);
        let width = width_of(&step.name, SMALL);
        let row = ends.iter().position(|end| *end + 4.0 < x).unwrap_or(NAME_ROWS - 1);
        ends[row] = x + width;
        let baseline = top + (row + 1) as f64 * NAME_HEIGHT - 3.0;
        svg.line("step", (x, baseline - 8.0), (x, bottom));
        svg.text("blocklabel", (x + 3.0, baseline), Anchor::Start, &step.name);
    }
}

fn draw_lane(svg: &mut Svg, picture: &SplitPicture, lane: &Lane, top: f64) {
    let bottom = top + LANE_HEIGHT - 1.0;
    let whose = if lane.moving { "shards that move" } else { "shards that stay" };
    let sorted = lane.sorted();
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
    let longest = picture.longest_of(lane);
    let took = longest.map(|beat| beat.took).unwrap_or_default();
    let is_wait = |beat: &Beat| beat.took >= WAIT.0.max(median * WAIT.1);
    svg.text("node", (MARGIN, top + 17.0), Anchor::Start, &format!("{}: {whose}", lane.node));
    for (row, (what, took)) in
        [("median", median), ("longest in the call", took)].iter().enumerate()
    {
        let text = format!("{what} {}", milliseconds(*took));
        let baseline = top + 32.0 + row as f64 * 14.0;
        svg.text("small", (MARGIN, baseline), Anchor::Start, &text);
    }
    for ms in [1_u64, 10, 100] {
        let y = bottom - height_of(Duration::from_millis(ms));
        svg.line("grid", (PLOT_LEFT, y), (PLOT_RIGHT, y));
        svg.text("small", (PLOT_LEFT - 4.0, y + 4.0), Anchor::End, &ms.to_string());
    }
    let every = lane.beats.len().div_ceil(MOST_BARS).max(1);
    let drawn = lane.beats.iter().enumerate().filter(|(n, beat)| n % every == 0 || is_wait(beat));
    let bars: Vec<(f64, f64, f64)> = drawn
        .map(|(_, beat)| {
            let height = height_of(beat.took);
            (x_of(picture, beat.sent), bottom - height, height)
        })
        .collect();
    svg.bars(if lane.moving { "moves" } else { "stays" }, &bars);
    for beat in lane.beats.iter().filter(|beat| is_wait(beat)) {
        let y = bottom - height_of(beat.took);
        let (from, to) = (x_of(picture, beat.sent), x_of(picture, beat.sent + beat.took));
        svg.line("wait", (from, y), (to, y));
        svg.dot("answer", (to, y), 2.0);
    }
    // The longest by its number.
    if let Some(beat) = longest.filter(|beat| is_wait(beat)) {
        let (x, y) = (x_of(picture, beat.sent + beat.took), bottom - height_of(beat.took));
        svg.text("waited", (x + 5.0, y + 4.0), Anchor::Start, &milliseconds(beat.took));
    }
}

fn draw_legend(svg: &mut Svg, y: f64) {
    let mut x = MARGIN;
    let entries = [
        ("moves", "a statement on a shard that moves; its height is its time, in ms"),
        ("stays", "on one that stays"),
    ];
    for (class, text) in entries {
        let bars: Vec<(f64, f64, f64)> =
            (0..4).map(|n| (x + 2.0 + f64::from(n) * 4.0, y - 8.0, 12.0)).collect();
        svg.bars(class, &bars);
        svg.text("small", (x + 24.0, y + 3.0), Anchor::Start, text);
        x += 24.0 + width_of(text, SMALL) + 22.0;
    }
    svg.rect("block", Area { x, y: y - 9.0, width: 20.0, height: 14.0 }, 0.0);
    svg.text(
        "small",
        (x + 26.0, y + 3.0),
        Anchor::Start,
        "the call, with its steps as it told of them",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn picture() -> SplitPicture {
        let lane = |moving: bool, longest: u64| Lane {
            node: "worker1".into(),
            moving,
            beats: (0..1_000)
                .map(|n| Beat { sent: ms(n * 2), took: ms(if n == 500 { longest } else { 1 }) })
                .collect(),
        };
        SplitPicture {
            title: "A <split>".into(),
            subtitle: "three nodes".into(),
            lanes: vec![lane(true, 60), lane(false, 2)],
            steps: ["near", "prepared", "caught_up", "released"]
                .iter()
                .zip([900, 905, 906, 1_050])
                .map(|(name, at)| Step { name: (*name).into(), at: ms(at) })
                .collect(),
            call: (ms(800), ms(1_100)),
            length: ms(2_000),
            is_whole: true,
            verdict: "none lost".into(),
        }
    }

    #[test]
    fn it_shows_who_waited_and_each_step() {
        let drawn = draw(&picture());
        let parsed = roxmltree::Document::parse(&drawn).expect("well formed");
        let texts: Vec<&str> = parsed
            .descendants()
            .filter(|node| node.has_tag_name("text"))
            .filter_map(|node| node.text())
            .collect();
        for wanted in ["near", "prepared", "caught_up", "released", "60 ms", "A <split>"] {
            assert!(texts.contains(&wanted), "{wanted}: {texts:?}");
        }
        // Only who waited is named.
        assert_eq!(texts.iter().filter(|text| **text == "60 ms").count(), 1);
        assert!(!texts.contains(&"2 ms"));
    }

    #[test]
    fn what_is_outside_the_call_does_not_count() {
        let mut picture = picture();
        assert_eq!(picture.longest(true), Some(ms(60)));
        assert_eq!(picture.longest(false), Some(ms(2)));
        picture.call = (ms(0), ms(10));
        assert_eq!(picture.longest(true), Some(ms(1)));
    }

    #[test]
    fn longer_is_higher_and_stays_in_its_lane() {
        let heights: Vec<f64> = [0, 1, 10, 100, 100_000].map(|n| height_of(ms(n))).into();
        assert!(heights.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(heights.iter().all(|height| (0.0..LANE_HEIGHT).contains(height)));
    }
}
