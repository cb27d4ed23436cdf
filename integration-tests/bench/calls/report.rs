//! The figures in words and in a plot, beside the bars that they must meet.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use plotters::prelude::*;

use crate::within::Loop;
use crate::{Idle, Latencies};

/// Parts of a run whose ratios say how far a ratio is to be trusted.
const PARTS: usize = 8;

/// Most that a way's median may be of a bare spawn's: program, way, bar.
const BARS: [(&str, &str, f64); 5] = [
    ("true", "cold", 2.7),
    ("true", "ready", 1.25),
    ("true", "toolcell run", 4.2),
    ("python", "prestarted", 0.5),
    ("python", "ready", 1.25),
];

/// What is said in the end.
pub struct Report {
    text: String,
    /// Ratios for the plot.
    ratios: Vec<(String, f64)>,
    missed: Vec<String>,
}

impl Report {
    /// Nothing yet but where it was measured.
    pub fn new() -> Self {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        Self {
            text: format!("{cores} cores, Linux {}\n", kernel.trim()),
            ratios: vec![],
            missed: vec![],
        }
    }

    fn line(&mut self, line: &str) {
        writeln!(self.text, "{line}").expect("a string takes it");
    }

    /// Notes whether a figure is within its bar, and returns the bar in words.
    fn bar(&mut self, what: &str, figure: f64, most: f64, unit: &str) -> String {
        if figure > most {
            self.missed.push(format!("{what}: {figure:.2}{unit}"));
        }
        format!("≤ {most}{unit}")
    }

    /// The ways to start a program.
    pub fn latencies(&mut self, program: &str, taken: Latencies) {
        self.line(&format!(
            "\n### `{program}`\n\n| | p50 ms | p90 | p99 | of a bare spawn | bar |\n|---|---|---|---|---|---|"
        ));
        let bare = taken
            .first()
            .map(|(_, taken)| taken.clone())
            .unwrap_or_default();
        for (way, taken) in taken {
            let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|part| quantile(&taken, part));
            let ratio = p50 / quantile(&bare, 0.5);
            let (least, most) = spread(&taken, &bare);
            let bar = BARS.iter().find(|bar| bar.0 == program && bar.1 == way);
            let mut bar = bar.map_or_else(String::new, |(.., most)| {
                self.bar(&format!("{way} `{program}`"), ratio, *most, "×")
            });
            if program == "true" && way == "cold" {
                let tail = self.bar("p99 of a cold call by its p50", p99 / p50, 3.0, "×");
                write!(bar, ", p99 {tail} p50").expect("a string takes it");
            }
            self.line(&format!(
                "| {way} | {p50:.2} | {p90:.2} | {p99:.2} | {ratio:.2}× ({least:.2}–{most:.2}) | {bar} |"
            ));
            if program == "true" {
                self.ratios.push((way, ratio));
            }
        }
    }

    /// Calls per second.
    pub fn throughput(&mut self, callers: usize, [bare, cold, ready]: [Vec<f64>; 3]) {
        if callers == 1 {
            self.line("\n### Calls of `true` per second\n\n| callers | bare | cold | ready |\n|---|---|---|---|");
        }
        let of = |rates: &[f64]| quantile(rates, 0.5);
        let share = |rates: &[f64]| of(rates) / of(&bare);
        if callers == crate::BURST {
            for (what, share, least) in
                [("cold", share(&cold), 0.25), ("ready", share(&ready), 0.45)]
            {
                if share < least {
                    self.missed
                        .push(format!("{callers} callers, {what}: {share:.2}"));
                }
            }
        }
        self.line(&format!(
            "| {callers} | {:.0} | {:.0} ({:.0} %) | {:.0} ({:.0} %) |",
            of(&bare),
            of(&cold),
            100.0 * share(&cold),
            of(&ready),
            100.0 * share(&ready)
        ));
    }

    /// Many calls at once, each of which finds a cell.
    pub fn burst(&mut self, [bare, calls]: [Vec<f64>; 2]) {
        let (bare, calls) = (quantile(&bare, 0.5), quantile(&calls, 0.5));
        let share = bare / calls;
        if share < 0.75 {
            self.missed.push(format!("burst: {share:.2}"));
        }
        self.line(&format!(
            "\n{} calls at once with a cell each: {calls:.1} ms, as many bare spawns: {bare:.1} ms ({:.0} %, bar ≥ 75 %)",
            crate::BURST,
            100.0 * share
        ));
    }

    /// What waits.
    pub fn idle(&mut self, idle: Option<Idle>) {
        let Some(idle) = idle else {
            return self.line("\nIdle memory could not be read here.");
        };
        self.line("\n### Idle memory\n\n| | KiB | bar |\n|---|---|---|");
        for (what, held, most) in [
            ("supervisor", idle.supervisor, 15.0 * 1024.0),
            ("launcher", idle.launcher, 1024.0),
            ("a cell that waits", idle.cell, 256.0),
        ] {
            let bar = self.bar(what, held, most, "");
            self.line(&format!("| {what} | {held:.0} | {bar} |"));
        }
    }

    /// What the layers cost while a program runs.
    pub fn within(&mut self, loops: Vec<Loop>) {
        self.line(
            "\n### Inside of a cell\n\n| | outside | inside | ratio | bar |\n|---|---|---|---|---|",
        );
        for one in loops {
            let (outside, inside) = (quantile(&one.outside, 0.5), quantile(&one.inside, 0.5));
            let ratio = inside / outside;
            let bar = self.bar(one.name, ratio, one.bar, "×");
            self.line(&format!(
                "| {} | {outside:.0} | {inside:.0} | {ratio:.2}× | {bar} |",
                one.name
            ));
        }
    }

    /// Writes it down, and says whether every bar is met.
    pub fn finish(self) -> ExitCode {
        let directory = harness::profile_directory().join("../bench");
        std::fs::create_dir_all(&directory).expect("target is writable");
        print!("{}", self.text);
        std::fs::write(directory.join("calls.md"), &self.text).expect("target is writable");
        if let Err(error) = plot(&directory.join("calls.svg"), &self.ratios) {
            eprintln!("no plot: {error}");
        }
        if self.missed.is_empty() {
            return ExitCode::SUCCESS;
        }
        eprintln!("bars missed: {}", self.missed.join("; "));
        ExitCode::FAILURE
    }
}

/// Bars of the ratios, on a logarithmic scale.
fn plot(path: &Path, ratios: &[(String, f64)]) -> Result<(), Box<dyn std::error::Error>> {
    let rows = i32::try_from(ratios.len())?;
    let height = u32::try_from(ratios.len())? * 40 + 90;
    let area = SVGBackend::new(path, (760, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let most = ratios.iter().map(|(_, ratio)| *ratio).fold(2.0, f64::max) * 1.5;
    let mut chart = ChartBuilder::on(&area)
        .caption("One call of `true`, in bare spawns", ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(120)
        .build_cartesian_2d((0.5..most).log_scale(), (0..rows).into_segmented())?;
    let name = |at: &SegmentValue<i32>| match at {
        SegmentValue::CenterOf(row) => usize::try_from(*row)
            .ok()
            .and_then(|row| ratios.get(row))
            .map(|(name, _)| name.clone())
            .unwrap_or_default(),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(ratios.len())
        .y_label_formatter(&name)
        .draw()?;
    chart.draw_series((0..).zip(ratios).map(|(row, (name, ratio))| {
        let ours = ["cold", "ready", "toolcell run"].contains(&name.as_str());
        let colour = if ours {
            RGBColor(38, 110, 180)
        } else {
            RGBColor(150, 150, 150)
        };
        let ends = [
            (0.5, SegmentValue::Exact(row)),
            (*ratio, SegmentValue::Exact(row + 1)),
        ];
        let mut bar = Rectangle::new(ends, colour.filled());
        bar.set_margin(6, 6, 0, 0);
        bar
    }))?;
    area.present()?;
    Ok(())
}

fn quantile(values: &[f64], part: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )] // a place in a list of hundreds
    let index = (values.len() as f64 * part) as usize;
    let last = values.len().saturating_sub(1);
    values.get(index.min(last)).copied().unwrap_or(f64::NAN)
}

/// The least and the most of the ratios of medians, part by part of the run.
fn spread(values: &[f64], bare: &[f64]) -> (f64, f64) {
    let parts = |all: &[f64]| -> Vec<f64> {
        let length = (all.len() / PARTS).max(1);
        all.chunks(length).map(|part| quantile(part, 0.5)).collect()
    };
    let ratios: Vec<f64> = parts(values)
        .into_iter()
        .zip(parts(bare))
        .map(|(own, bare)| own / bare)
        .collect();
    (
        ratios.iter().copied().fold(f64::INFINITY, f64::min),
        ratios.iter().copied().fold(0.0, f64::max),
    )
}
