//! Dashboards for Grafana, made of what is declared of each metric and of the objectives: an overview, one of each handler, and some that
//! follow one subject through several handlers. Every declared metric has a panel.
//!
//! The form is the classic one (`schemaVersion` [`SCHEMA_VERSION`]), which Grafana takes from files and raises by itself. The data source
//! is a variable, so that no dashboard names one of an installation; the address of the gateway, to which links to runbooks lead, is another.
//!
//! Limits: a panel shows at most [`SERIES_SHOWN_MAX`] series of a label with more values than that.

mod layout;
mod objective;
mod panel;
mod subjects;

use instruments::{MetricCategory, MetricDeclaration, MetricHandler, declarations};

use crate::{prometheus::RenderOptions, rule_set::RuleSet};
use panel::Panel;

/// Version of the form, that of Grafana 12.2 and later.
pub const SCHEMA_VERSION: u32 = 42;
/// Most series of a panel whose labels have more values.
pub const SERIES_SHOWN_MAX: usize = 20;

/// A dashboard as a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DashboardFile {
    /// Name of the file, such as `overview.json`.
    pub name: String,
    /// Its JSON.
    pub text: String,
}

/// A dashboard before it is written.
#[derive(Debug, Clone)]
pub(crate) struct Dashboard {
    /// Names its file, and behind `streamgate-` the dashboard.
    pub(crate) slug: &'static str,
    pub(crate) title: String,
    pub(crate) about: String,
    pub(crate) rows: Vec<PanelRow>,
}

/// Panels below one head.
#[derive(Debug, Clone)]
pub(crate) struct PanelRow {
    pub(crate) title: String,
    pub(crate) panels: Vec<Panel>,
}

/// All dashboards, the overview first.
pub fn render_dashboards(set: &RuleSet, options: &RenderOptions) -> Vec<DashboardFile> {
    let mut dashboards = vec![objective::overview(set)];
    dashboards.extend(MetricHandler::ALL.map(of_handler));
    dashboards.extend(subjects::all());
    dashboards.iter().map(|dashboard| layout::render(dashboard, options)).collect()
}

/// Everything of one handler, by category.
fn of_handler(handler: MetricHandler) -> Dashboard {
    let row = |category: MetricCategory| {
        let declared = declarations().filter(|one| (one.handler, one.category) == (handler, category));
        PanelRow { title: capitalize(category.name()), panels: panels_of(declared) }
    };
    let categories = [
        MetricCategory::Request,
        MetricCategory::Operation,
        MetricCategory::Performance,
        MetricCategory::Service,
    ];
    Dashboard {
        slug: handler.name(),
        title: capitalize(handler.name()),
        about: format!("All metrics of the handler `{}`.", handler.name()),
        rows: categories.map(row).into_iter().filter(|row| !row.panels.is_empty()).collect(),
    }
}

fn panels_of(declared: impl Iterator<Item = &'static MetricDeclaration>) -> Vec<Panel> {
    declared.flat_map(panel::of_metric).collect()
}

/// With a capital letter at its beginning; names are ASCII.
fn capitalize(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}
