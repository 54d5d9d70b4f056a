//! What each operation declares beside its handler: who may ask, what it counts as, the room it needs, the events it may cause.
//!
//! A handler gets onto a router only with its [`Operation`]. The router, scopes of API keys, rate limits, the check of queries, the
//! check for room and the description of the API are all made from that one declaration; nothing is concluded from an address.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Router,
    extract::{MatchedPath, Request},
    handler::Handler,
    http::Method,
    response::IntoResponse,
    routing::{MethodFilter, MethodRouter, Route, on},
};
use schemas::{access::ApiKeyScope, access_sum::AccessClass};
use tower::{Layer, Service, util::MapRequestLayer};

use super::limit::RateLimitGroup;

/// Whose request is taken. OPTIONS is taken from everybody: it changes and shows nothing, and browsers send it without credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationAccess {
    /// Everybody's; no credential is looked at.
    Open,
    /// The body is the credential: the attempt is counted once it is known whose it is.
    Body,
    /// The path holds the right.
    Path,
    /// Everybody's; a credential that is shown has to be good, and an API key needs this scope or no limit.
    Optional(ApiKeyScope),
    /// A principal's; an API key needs this scope or no limit.
    Principal(ApiKeyScope),
    /// A principal's; of API keys only those without a limit.
    UnlimitedPrincipal,
    /// A principal's, about itself: with any good credential.
    Own,
}

impl OperationAccess {
    /// True where a credential in a header is looked at.
    pub const fn reads_credential(self) -> bool {
        matches!(self, Self::Optional(_) | Self::Principal(_) | Self::UnlimitedPrincipal | Self::Own)
    }

    /// The scope that a limited API key needs.
    pub const fn scope(self) -> Option<ApiKeyScope> {
        match self {
            Self::Optional(scope) | Self::Principal(scope) => Some(scope),
            _ => None,
        }
    }
}

/// Which parameters a query may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryPolicy {
    /// Those that the operation describes.
    Described,
    /// Any: players, proxies and browsers add their own.
    Any,
}

/// The room that has to be left for what an operation creates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoomNeed {
    /// Names of streams and disks; empty when nothing is created.
    pub limits: &'static [&'static str],
    /// Headers with the size of what is stored, in bytes; the largest counts.
    pub size_headers: &'static [&'static str],
}

impl RoomNeed {
    /// Nothing is created. What ends, revokes or goes on needs no room: it has to work when everything is full.
    pub const NONE: Self = Self { limits: &[], size_headers: &[] };
}

/// One operation of the API.
#[derive(Debug)]
pub struct Operation {
    /// Its method.
    pub method: Method,
    /// Its path, with parameters as `{name}`.
    pub path: &'static str,
    /// Whose request is taken.
    pub access: OperationAccess,
    /// What it counts as; `None` when it does not count.
    pub rate_group: Option<RateLimitGroup>,
    /// Which parameters its query may have.
    pub query: QueryPolicy,
    /// The room it needs.
    pub room: RoomNeed,
    /// Kinds of the events that it may cause, such as `media.changed`.
    pub events: &'static [&'static str],
    /// What its requests are summed as where its events do not report them; `None` for what its group and events say.
    pub summed_as: Option<AccessClass>,
}

impl Operation {
    /// An operation that reads: it needs no room and causes no event.
    pub const fn read(
        path: &'static str,
        access: OperationAccess,
        rate_group: Option<RateLimitGroup>,
    ) -> Self {
        Self::change(Method::GET, path, access, rate_group, &[])
    }

    /// An operation that may cause `events`. An empty list says that it changes nothing.
    pub const fn change(
        method: Method,
        path: &'static str,
        access: OperationAccess,
        rate_group: Option<RateLimitGroup>,
        events: &'static [&'static str],
    ) -> Self {
        let (query, room) = (QueryPolicy::Described, RoomNeed::NONE);
        Self { method, path, access, rate_group, query, room, events, summed_as: None }
    }

    /// The same, where others add parameters to the query.
    #[must_use]
    pub const fn with_any_query(mut self) -> Self {
        self.query = QueryPolicy::Any;
        self
    }

    /// The same, needing room.
    #[must_use]
    pub const fn with_room(mut self, room: RoomNeed) -> Self {
        self.room = room;
        self
    }

    /// The same, with its requests summed as `class` where its events do not report them.
    #[must_use]
    pub const fn with_access_class(mut self, class: AccessClass) -> Self {
        self.summed_as = Some(class);
        self
    }

    /// What its requests are summed as in the audit log where its events do not report them.
    pub const fn access_class(&self) -> AccessClass {
        match (self.summed_as, self.rate_group) {
            (Some(class), _) => class,
            (None, Some(RateLimitGroup::Auth)) => AccessClass::Authentication,
            (None, Some(RateLimitGroup::Cache)) => AccessClass::Cache,
            (None, Some(RateLimitGroup::Streaming)) => AccessClass::Playback,
            (None, _) if self.events.is_empty() => AccessClass::Read,
            (None, _) => AccessClass::Change,
        }
    }

    /// The part of `path` that stands where the path of the operation has `parameter`, such as `{token}`.
    pub fn path_parameter<'p>(&self, parameter: &str, path: &'p str) -> Option<&'p str> {
        let index = self.path.split('/').position(|step| step == parameter)?;
        path.split('/').nth(index)
    }
}

/// A router that takes a handler only with its [`Operation`].
#[derive(Debug)]
pub struct OperationRouter<S = ()> {
    router: Router<S>,
    operations: Vec<&'static Operation>,
}

impl<S: Clone + Send + Sync + 'static> Default for OperationRouter<S> {
    fn default() -> Self {
        Self { router: Router::new(), operations: Vec::new() }
    }
}

impl<S: Clone + Send + Sync + 'static> OperationRouter<S> {
    /// Has `handler` answer `operation`. GET answers HEAD, too.
    ///
    /// # Panics
    /// When the path has a handler for the method already.
    #[must_use]
    pub fn with<H, T>(mut self, operation: &'static Operation, handler: H) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        self.router = self.router.route(operation.path, method_router(&operation.method, handler));
        self.operations.push(operation);
        self
    }

    /// All operations of both.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.operations.extend(other.operations);
        self
    }

    /// Lays `layer` around all handlers so far.
    #[must_use]
    pub fn route_layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<Route> + Clone + Send + Sync + 'static,
        L::Service: Service<Request> + Clone + Send + Sync + 'static,
        <L::Service as Service<Request>>::Response: IntoResponse + 'static,
        <L::Service as Service<Request>>::Error: Into<std::convert::Infallible> + 'static,
        <L::Service as Service<Request>>::Future: Send + 'static,
    {
        self.router = self.router.route_layer(layer);
        self
    }

    /// Lays `layer` around all handlers so far, and around what answers where their paths have no such method.
    #[must_use]
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<Route> + Clone + Send + Sync + 'static,
        L::Service: Service<Request> + Clone + Send + Sync + 'static,
        <L::Service as Service<Request>>::Response: IntoResponse + 'static,
        <L::Service as Service<Request>>::Error: Into<std::convert::Infallible> + 'static,
        <L::Service as Service<Request>>::Future: Send + 'static,
    {
        self.router = self.router.layer(layer);
        self
    }

    /// Gives the handlers their state.
    pub fn with_state<S2>(self, state: S) -> OperationRouter<S2> {
        OperationRouter { router: self.router.with_state(state), operations: self.operations }
    }

    /// Its operations.
    pub fn operations(&self) -> &[&'static Operation] {
        &self.operations
    }

    /// The router, and the table of its operations for the layers in front of it.
    pub fn into_parts(self) -> (Router<S>, OperationTable) {
        let table = OperationTable::new(&self.operations);
        (self.router, table)
    }
}

fn method_router<H, T, S>(method: &Method, handler: H) -> MethodRouter<S>
where
    H: Handler<T, S>,
    T: 'static,
    S: Clone + Send + Sync + 'static,
{
    match MethodFilter::try_from(method.clone()) {
        Ok(filter) => on(filter, handler),
        // A method that axum does not route; a walk over all operations finds that it is not served.
        Err(_) => MethodRouter::new(),
    }
}

/// The operation that a request was sent to, among its extensions.
#[derive(Debug, Clone, Copy)]
struct MatchedOperation(&'static Operation);

/// All operations by path and method. Cheap to clone.
#[derive(Debug, Clone)]
pub struct OperationTable(Arc<HashMap<&'static str, Vec<&'static Operation>>>);

impl OperationTable {
    /// A table of these.
    pub fn new(operations: &[&'static Operation]) -> Self {
        let mut by_path = HashMap::<_, Vec<_>>::new();
        for operation in operations {
            by_path.entry(operation.path).or_default().push(*operation);
        }
        Self(Arc::new(by_path))
    }

    /// The operation that `method` means where the router has found the route of `path`; HEAD is GET without its body.
    pub fn find(&self, method: &Method, path: &str) -> Option<&'static Operation> {
        let operations = self.0.get(path)?;
        let with = |method: &Method| operations.iter().find(|operation| operation.method == *method).copied();
        with(method).or_else(|| if *method == Method::HEAD { with(&Method::GET) } else { None })
    }

    /// Has each request carry its operation, for [`matched_operation`]: of the route that the router has found, so that both can't differ. Stands in
    /// front of all layers that ask for it.
    pub fn match_layer(self) -> MapRequestLayer<impl Fn(Request) -> Request + Clone> {
        MapRequestLayer::new(move |mut request: Request| {
            let route = request.extensions().get::<MatchedPath>();
            if let Some(operation) = route.and_then(|route| self.find(request.method(), route.as_str())) {
                request.extensions_mut().insert(MatchedOperation(operation));
            }
            request
        })
    }
}

/// The operation that a request was sent to; `None` where there is none.
pub fn matched_operation(request: &Request) -> Option<&'static Operation> {
    request.extensions().get::<MatchedOperation>().map(|matched| matched.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    static READ: Operation = Operation::read("/a/{id}", OperationAccess::Open, Some(RateLimitGroup::Api));
    static LIST: Operation =
        Operation::read("/a", OperationAccess::Principal(ApiKeyScope::Audit), None).with_any_query();
    static MAKE: Operation =
        Operation::change(Method::POST, "/a", OperationAccess::Own, Some(RateLimitGroup::Auth), &["a.made"])
            .with_room(RoomNeed { limits: &["EVENTS"], size_headers: &[] });
    static REST: Operation = Operation::read("/b/{*path}", OperationAccess::Path, None);

    #[test]
    fn a_request_has_the_operation_of_its_path_and_method() {
        let table = OperationTable::new(&[&READ, &LIST, &MAKE, &REST]);
        for (method, path, wanted) in [
            (Method::GET, "/a", Some(&LIST)),
            (Method::HEAD, "/a", Some(&LIST)),
            (Method::POST, "/a", Some(&MAKE)),
            (Method::PUT, "/a", None),
            (Method::OPTIONS, "/a", None),
            (Method::GET, "/a/{id}", Some(&READ)),
            (Method::GET, "/b/{*path}", Some(&REST)),
            (Method::GET, "/c", None),
        ] {
            let found = table.find(&method, path);
            assert_eq!(found.map(|found| (found.path, &found.method)), wanted.map(|o| (o.path, &o.method)));
        }
    }

    #[test]
    fn what_leaves_no_event_is_summed_by_group_and_events() {
        let of = |group, events| {
            Operation::change(Method::POST, "/a", OperationAccess::Open, Some(group), events).access_class()
        };
        for (group, events, wanted) in [
            (RateLimitGroup::Auth, &["a.made"][..], AccessClass::Authentication),
            (RateLimitGroup::Cache, &[], AccessClass::Cache),
            (RateLimitGroup::Streaming, &[], AccessClass::Playback),
            (RateLimitGroup::Metadata, &["a.made"], AccessClass::Change),
            (RateLimitGroup::Metadata, &[], AccessClass::Read),
        ] {
            assert_eq!(of(group, events), wanted, "{group:?} {events:?}");
        }
        let probe = Operation::read("/a", OperationAccess::Open, Some(RateLimitGroup::Auth));
        assert_eq!(probe.with_access_class(AccessClass::Probe).access_class(), AccessClass::Probe);
    }

    #[test]
    fn only_access_with_a_header_reads_a_credential() {
        assert!(LIST.access.reads_credential() && MAKE.access.reads_credential());
        assert!(!READ.access.reads_credential() && !REST.access.reads_credential());
        assert_eq!((LIST.access.scope(), MAKE.access.scope()), (Some(ApiKeyScope::Audit), None));
        assert_eq!((LIST.query, MAKE.query), (QueryPolicy::Any, QueryPolicy::Described));
        assert_eq!((MAKE.room.limits, READ.room), (&["EVENTS"][..], RoomNeed::NONE));
        assert_eq!(READ.path_parameter("{id}", "/a/1"), Some("1"));
        assert_eq!(READ.path_parameter("{token}", "/a/1"), None);
    }
}
