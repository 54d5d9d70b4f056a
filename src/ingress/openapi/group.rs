//! What a group of endpoints gives to the description.

use utoipa::OpenApi;
use web::operation::Operation;

use super::schema::SchemaCollector;

/// A group of operations with the schemas of what they take and answer.
pub(crate) trait OperationGroup: OpenApi {
    /// The operations.
    fn operations() -> Vec<&'static Operation>;

    /// Adds the schemas.
    fn add_schemas(schemas: &mut SchemaCollector);
}

/// Makes types that read a query string parameters of operations.
macro_rules! query_parameters {
    ($($name:ty),*) => {
        $(impl utoipa::IntoParams for $name {
            fn into_params(
                _: impl Fn() -> Option<utoipa::openapi::path::ParameterIn>,
            ) -> Vec<utoipa::openapi::path::Parameter> {
                $crate::openapi::schema_parameters::<Self>()
            }
        })*
    };
}
pub(crate) use query_parameters;
