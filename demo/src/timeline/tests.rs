use roxmltree::{Document, Node};

use super::*;

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn span(from: u64, to: u64) -> Span {
    Span { from: ms(from), to: ms(to) }
}

fn lane(node: &str, commits: &[u64], copy: Span) -> Lane {
    Lane {
        node: node.to_owned(),
        commits: commits.iter().map(|at| Commit { at: ms(*at), is_torn: false }).collect(),
        copy: Some(copy),
        waits: Vec::new(),
    }
}

/// Two panels of two nodes; the second has a torn commit.
fn example() -> Picture {
    let mut blocked = lane("worker1", &[100, 900], span(300, 500));
    blocked.waits.push(span(250, 805));
    let mut torn = lane("worker1", &[100, 400, 900], span(300, 500));
    torn.commits[1].is_torn = true;
    let coordinator = lane("coordinator", &[50], span(200, 300));
    let panel = |heading: &str, block, lanes, is_whole| Panel {
        heading: heading.to_owned(),
        block,
        lanes,
        length: ms(1_000),
        is_whole,
        verdict: String::from("a verdict"),
    };
    Picture {
        title: String::from("A title"),
        subtitle: String::from("Measured <somewhere>"),
        panels: vec![
            panel("With", Some(span(200, 800)), vec![coordinator.clone(), blocked], true),
            panel("Without", None, vec![coordinator, torn], false),
        ],
    }
}

fn of_class<'a>(document: &'a Document, tag: &str, class: &str) -> Vec<Node<'a, 'a>> {
    document
        .descendants()
        .filter(|node| node.has_tag_name(tag) && node.attribute("class") == Some(class))
        .collect()
}

fn number(node: &Node, attribute: &str) -> f64 {
    let text = node.attribute(attribute).expect("the attribute is there");
    text.parse().expect("it is a number")
}

/// Without the legend's, which come last.
fn drawn<'a>(document: &'a Document, tag: &str, class: &str) -> Vec<Node<'a, 'a>> {
    let mut all = of_class(document, tag, class);
    all.pop();
    all
}

#[test]
fn every_measured_thing_is_drawn_where_it_belongs() {
    let picture = example();
    let svg = draw(&picture);
    let document = Document::parse(&svg).expect("it is XML");

    let strokes = |class| -> usize {
        drawn(&document, "path", class)
            .iter()
            .map(|path| path.attribute("d").map_or(0, |d| d.matches('M').count()))
            .sum()
    };
    assert_eq!(strokes("commit"), 6);
    assert_eq!(strokes("torn"), 1);

    let bars = drawn(&document, "rect", "copy");
    assert_eq!(bars.len(), 4);
    assert_eq!(number(&bars[1], "x"), PLOT_LEFT + PLOT_WIDTH * 0.3);
    assert!((number(&bars[1], "width") - PLOT_WIDTH * 0.2).abs() < 0.1);

    let bands = drawn(&document, "rect", "block");
    assert_eq!(bands.len(), 1, "only one of the panels has a block");
    let lanes = of_class(&document, "rect", "lane");
    assert_eq!(lanes.len(), 4);
    let bottom = |area: &Node| number(area, "y") + number(area, "height");
    assert!(number(&bands[0], "y") < number(&lanes[0], "y"), "the band is over all lanes");
    assert!(bottom(&bands[0]) >= bottom(&lanes[1]));

    let waits = drawn(&document, "line", "wait");
    assert_eq!(waits.len(), 1);
    assert!(number(&waits[0], "x1") > number(&bands[0], "x"));
    assert!(number(&waits[0], "x2") > number(&bands[0], "x") + number(&bands[0], "width"));

    assert_eq!(of_class(&document, "text", "good").len(), 1);
    assert_eq!(of_class(&document, "text", "bad").len(), 1);
}

#[test]
fn it_stands_alone_and_can_be_read_aloud() {
    let svg = draw(&example());
    let document = Document::parse(&svg).expect("it is XML");
    let root = document.root_element();
    assert_eq!(root.attribute("role"), Some("img"));
    let named = root.attribute("aria-labelledby").expect("it is labelled");
    for id in named.split(' ') {
        assert!(document.descendants().any(|node| node.attribute("id") == Some(id)), "{id}");
    }
    let description = document
        .descendants()
        .find(|node| node.has_tag_name("desc"))
        .and_then(|node| node.text())
        .expect("it is described");
    assert!(description.starts_with("Measured <somewhere>."));
    assert!(description.contains("With: 3 two-phase commits from 2 nodes in 1.00 s"));
    assert!(description.contains("a block of 0.60 s, until whose end 1 writer waited"));
    let style = document
        .descendants()
        .find(|node| node.has_tag_name("style"))
        .and_then(|node| node.text())
        .expect("it has colours");
    assert!(!style.contains("url(") && !style.contains("@import"));
    for foreign in ["script", "image", "foreignObject", "use"] {
        assert!(!document.descendants().any(|node| node.has_tag_name(foreign)));
    }
}

#[test]
fn nothing_leaves_the_picture() {
    let mut picture = example();
    // Marks after the end, and verdicts as long as they get.
    picture.panels[0].lanes[0].commits.push(Commit { at: ms(5_000), is_torn: false });
    for panel in &mut picture.panels {
        panel.verdict = "restored total 199,000.00 of 200,000.00, 1000 half transfers".to_owned();
    }
    let svg = draw(&picture);
    let document = Document::parse(&svg).expect("it is XML");
    let height = number(&document.root_element(), "height");
    for text in document.descendants().filter(|node| node.has_tag_name("text")) {
        // The bold ones are wider by a seventh.
        let size = match text.attribute("class").expect("it has a class") {
            "title" => 19.0 * 1.15,
            "heading" => 14.0 * 1.15,
            "good" | "bad" => 13.0 * 1.15,
            "node" => 12.0 * 1.15,
            "subtitle" => 12.0,
            _ => SMALL,
        };
        let width = width_of(text.text().unwrap_or_default(), size);
        let x = number(&text, "x");
        let (left, right) = match text.attribute("text-anchor") {
            Some("start") => (x, x + width),
            Some("middle") => (x - width / 2.0, x + width / 2.0),
            _ => (x - width, x),
        };
        assert!(left >= 0.0 && right <= WIDTH, "{:?}", text.text());
        assert!((0.0..height - 4.0).contains(&number(&text, "y")), "{:?}", text.text());
    }
    for path in document.descendants().filter_map(|node| node.attribute("d")) {
        for stroke in path.split('M').skip(1) {
            let x: f64 = stroke.split(' ').next().and_then(|x| x.parse().ok()).expect("an x");
            assert!((MARGIN..=PLOT_RIGHT).contains(&x));
        }
    }
}

#[test]
fn thousands_are_thinned_and_the_legend_says_so() {
    let mut picture = example();
    picture.panels[0].lanes[0].commits =
        (0..3_000).map(|number| Commit { at: ms(number / 3), is_torn: false }).collect();
    let thinning = Thinning::of(&picture);
    assert_eq!(thinning.every, 10);
    let svg = draw(&picture);
    // 300 of the long lane; of each short one its first.
    assert!(svg.contains("two-phase commit (303 of 3006 drawn)"), "{svg}");
    assert!(svg.len() < 60_000);
}

#[test]
fn an_axis_has_round_labels_and_not_too_many() {
    assert_eq!(step_for(ms(1_000)), ms(100));
    assert_eq!(step_for(ms(4_700)), ms(500));
    assert_eq!(step_for(ms(90)), ms(10));
    assert_eq!(step_for(ms(70_000)), ms(10_000));
    assert_eq!(axis_label(ms(0), ms(500)), "0");
    assert_eq!(axis_label(ms(500), ms(500)), "0.5 s");
    assert_eq!(axis_label(ms(1_500), ms(500)), "1.5 s");
    assert_eq!(axis_label(ms(2_000), ms(1_000)), "2 s");
    assert_eq!(axis_label(ms(550), ms(50)), "550 ms");
}

#[test]
fn nothing_measured_is_still_a_picture() {
    let svg = draw(&Picture::default());
    assert!(Document::parse(&svg).is_ok());
}
