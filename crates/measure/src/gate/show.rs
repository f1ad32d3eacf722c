//! Findings for people and for machines: a table, Markdown, JUnit.

use std::fmt;

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::{Finding, Findings, Holds};

/// Longest cell that others are aligned with.
const CELL_LEN_MAX: usize = 80;

impl Holds {
    /// In a table.
    pub fn word(self) -> &'static str {
        match self {
            Self::Yes => "ok",
            Self::No => "FAILED",
            Self::Unknown => "cannot tell",
        }
    }
}

impl Finding {
    /// How often it cries wolf and what it sees.
    fn knows(&self) -> String {
        let alarm = self.false_alarm_max.map(|it| format!("false alarms ≤ {:.1} %", 100.0 * it));
        let sees = self.detectable.map(|it| format!("sees {:.1} %", 100.0 * it));
        let words: Vec<String> = alarm.into_iter().chain(sees).collect();
        if words.is_empty() { "exact".into() } else { words.join(", ") }
    }
}

impl Findings {
    /// The line under a table.
    pub fn last_word(&self) -> String {
        let count = |holds: Holds| self.rows.iter().filter(|it| it.holds == holds).count();
        let [yes, no, unknown] = [Holds::Yes, Holds::No, Holds::Unknown].map(count);
        format!("{}: {yes} hold, {no} failed, {unknown} cannot be told", self.suite)
    }

    /// As Markdown.
    pub fn markdown(&self) -> String {
        let mut out = format!("### {}\n\n", self.last_word());
        out.push_str("| | gate | wanted | found | knows |\n| --- | --- | --- | --- | --- |\n");
        let cell = |text: &str| {
            let text = text.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;");
            text.replace(['\n', '\r'], " ")
        };
        for it in &self.rows {
            let columns = [it.holds.word(), &it.about, &it.want, &it.found, &it.knows()].map(cell);
            out.push_str(&format!("| {} |\n", columns.join(" | ")));
        }
        out
    }

    /// As JUnit's XML. What cannot be told is an error, a regression a failure.
    ///
    /// # Errors
    /// When it cannot be written down; nothing in findings can cause that.
    pub fn junit(&self) -> Result<String, quick_junit::SerializeError> {
        let mut suite = TestSuite::new(self.suite.clone());
        for it in &self.rows {
            let fault = |kind| {
                let mut status = TestCaseStatus::non_success(kind);
                status.set_message(format!("wanted {}, found {}", it.want, it.found));
                status
            };
            let status = match it.holds {
                Holds::Yes => TestCaseStatus::success(),
                Holds::No => fault(NonSuccessKind::Failure),
                Holds::Unknown => fault(NonSuccessKind::Error),
            };
            let mut case = TestCase::new(format!("{}: {}", it.kind, it.about), status);
            case.set_system_out(format!("{}\n{}", it.found, it.knows()));
            suite.add_test_case(case);
        }
        let mut report = Report::new("calor gates");
        report.add_test_suite(suite);
        report.to_string()
    }
}

/// As a table.
impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |it: &Finding| {
            [
                it.holds.word().to_owned(),
                it.about.clone(),
                it.want.clone(),
                it.found.clone(),
                it.knows(),
            ]
        };
        let rows: Vec<[String; 5]> = self.rows.iter().map(row).collect();
        // Long words of one row push nothing in the others away.
        let width = |at: usize| {
            let lens = rows.iter().map(|it| it[at].chars().count());
            lens.filter(|it| *it <= CELL_LEN_MAX).max().unwrap_or(0)
        };
        let widths: [usize; 5] = std::array::from_fn(width);
        for row in &rows {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        write!(f, "{}", self.last_word())
    }
}
