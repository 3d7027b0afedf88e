//! The few elements of SVG that the picture needs, written as text. Numbers have one decimal, which
//! is finer than anyone sees and half the size.

use std::fmt::Write as _;

/// Where a text is relative to its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

impl Anchor {
    fn name(self) -> &'static str {
        match self {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        }
    }
}

/// A rectangle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Area {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

/// A document on its way. Colours and fonts are classes of its style sheet.
pub struct Svg {
    body: String,
}

impl Svg {
    pub fn new() -> Svg {
        Svg { body: String::new() }
    }

    pub fn rect(&mut self, class: &str, area: Area, radius: f64) {
        let Area { x, y, width, height } = area;
        let round = if radius > 0.0 { format!(" rx=\"{radius}\"") } else { String::new() };
        let _ = writeln!(
            self.body,
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
             height=\"{height:.1}\"{round}/>"
        );
    }

    pub fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let _ = writeln!(
            self.body,
            "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
            from.0, from.1, to.0, to.1
        );
    }

    pub fn dot(&mut self, class: &str, at: (f64, f64), radius: f64) {
        let _ = writeln!(
            self.body,
            "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius}\"/>",
            at.0, at.1
        );
    }

    /// Upright strokes of one length, as one element: there are hundreds. Nothing for none.
    pub fn strokes(&mut self, class: &str, at: &[f64], top: f64, length: f64) {
        if at.is_empty() {
            return;
        }
        let mut path = String::new();
        for x in at {
            let _ = write!(path, "M{x:.1} {top:.1}v{length:.1}");
        }
        let _ = writeln!(self.body, "<path class=\"{class}\" d=\"{path}\"/>");
    }

    /// Upright bars (x, top, length), as one element. Nothing for none.
    pub fn bars(&mut self, class: &str, bars: &[(f64, f64, f64)]) {
        if bars.is_empty() {
            return;
        }
        let mut path = String::new();
        for (x, top, length) in bars {
            let _ = write!(path, "M{x:.1} {top:.1}v{length:.1}");
        }
        let _ = writeln!(self.body, "<path class=\"{class}\" d=\"{path}\"/>");
    }

    pub fn polyline(&mut self, class: &str, points: &[(f64, f64)]) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ =
            writeln!(self.body, "<polyline class=\"{class}\" points=\"{}\"/>", points.join(" "));
    }

    pub fn text(&mut self, class: &str, at: (f64, f64), anchor: Anchor, text: &str) {
        let _ = writeln!(
            self.body,
            "<text class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{}\">{}</text>",
            at.0,
            at.1,
            anchor.name(),
            escape(text)
        );
    }

    /// The whole document. Title and description are for those who hear it read.
    pub fn finish(
        self,
        (width, height): (f64, f64),
        style: &str,
        title: &str,
        description: &str,
    ) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
             width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\" \
             aria-labelledby=\"fence-title fence-description\">\n\
             <title id=\"fence-title\">{}</title>\n\
             <desc id=\"fence-description\">{}</desc>\n\
             <style>{style}</style>\n{}</svg>\n",
            escape(title),
            escape(description),
            self.body
        )
    }
}

/// What XML wants written differently.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// An upper bound of a text's width, for a sans-serif font whose metrics are not known.
pub fn width_of(text: &str, size: f64) -> f64 {
    text.chars()
        .map(|c| match c {
            'i' | 'j' | 'l' | 'f' | 't' | 'r' | '.' | ',' | ':' | ' ' | '(' | ')' => 0.4,
            'm' | 'w' | 'M' | 'W' | '—' => 0.95,
            'A'..='Z' => 0.75,
            _ => 0.62,
        })
        .sum::<f64>()
        * size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_break_out() {
        let mut svg = Svg::new();
        svg.text("plain", (1.0, 2.0), Anchor::End, "a < b & \"c\" </text>");
        let whole = svg.finish((10.0, 10.0), "", "<t>", "&");
        let parsed = roxmltree::Document::parse(&whole);
        let text = parsed.ok().and_then(|document| {
            let node = document.descendants().find(|node| node.has_tag_name("text"))?;
            node.text().map(str::to_owned)
        });
        assert_eq!(text.as_deref(), Some("a < b & \"c\" </text>"));
    }
}
