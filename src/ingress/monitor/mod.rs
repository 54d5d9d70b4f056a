//! What operators ask of the monitor, from its records.
//!
//! Limits: what each file says.

mod alerts;

use super::openapi;
use crate::AppState;
use web::operation::{Operation, OperationRouter};

/// The routes.
pub(crate) fn router() -> OperationRouter<AppState> {
    OperationRouter::default()
        .with(&alerts::LIST_ALERTS, alerts::list_alerts)
        .with(&alerts::SILENCE_ALERT, alerts::silence_alert)
        .with(&alerts::ACKNOWLEDGE_ALERT, alerts::acknowledge_alert)
}

/// Their descriptions.
#[derive(utoipa::OpenApi)]
#[openapi(paths(alerts::list_alerts, alerts::silence_alert, alerts::acknowledge_alert))]
pub(super) struct MonitorApiDoc;

impl openapi::OperationGroup for MonitorApiDoc {
    fn operations() -> Vec<&'static Operation> {
        router().operations().to_vec()
    }

    fn add_schemas(schemas: &mut openapi::SchemaCollector) {
        schemas.add_response::<alerts::AlertList>();
        schemas.add_response::<alerts::AlertMarkDocument>();
        schemas.add_request::<alerts::AlertMarkRequest>();
    }
}

#[cfg(test)]
mod tests;
