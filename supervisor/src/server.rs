//! MCP, as clients of either era speak it: by `initialize` (up to 2025-11-25), or with all of it in
//! each request (2026-07-28).

use std::ops::Bound;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rmcp::ErrorData;
use rmcp::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, CustomRequest,
    CustomResult, ErrorCode, Implementation, ListResourcesResult, ListToolsResult, MetaObject,
    PaginatedRequestParams, ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult,
    Resource, ResourceContents, ServerCapabilities, ServerConfig, SubscriptionFilter, Tool,
};
use rmcp::service::{NotificationContext, RequestContext, RoleServer, SubscriptionContext};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::caller::Caller;
use crate::progress;
use crate::render;
use crate::results::{Part, ResultsError};
use crate::service::{Answer, Asker, Request, Service};

/// Most tools or resources in one answer; the rest follows by cursor.
pub const PAGE: usize = 100;
/// Key of a result's `_meta` that says where the call's receipt is in the audit log.
pub const RECEIPT: &str = "dev.toolcell/receipt";
/// Key of a resource's `_meta` that says how large the whole is and where its next part is read.
pub const PART: &str = "dev.toolcell/part";

/// Marks a cursor as ours.
const CURSOR: &str = "after:";
const INSTRUCTIONS: &str = "Every tool call runs in a Linux cell of its own, which sees only what \
    the tool's profile lists. A result says how the call ended, what was denied and which profile \
    line would allow it. Output beyond a tool's limit, and files that it leaves in `out/` of its \
    working directory, are resources.";

/// One client's connection.
pub struct Server {
    service: Arc<Service>,
    who: Who,
    /// Cancelled when the connection ends.
    connection: CancellationToken,
    /// Whether this connection is already told of changed tools.
    announces: AtomicBool,
    /// Ends what still goes on for the connection when nobody serves it any more.
    _ends: Option<DropGuard>,
}

/// Who calls over a connection.
enum Who {
    /// Always the same.
    Is(Caller),
    /// Each request says so itself: HTTP has found it out and put it there.
    InRequest,
}

impl Server {
    /// Serves one client, who calls as this caller. When the token is cancelled, so are the client's
    /// calls and subscriptions.
    #[must_use]
    pub fn new(service: Arc<Service>, caller: Caller, connection: CancellationToken) -> Self {
        Self {
            service,
            who: Who::Is(caller),
            connection,
            announces: AtomicBool::new(false),
            _ends: None,
        }
    }

    /// Serves one client over HTTP, whose requests each carry their [`Caller`] among the extensions.
    #[must_use]
    pub fn over_http(service: Arc<Service>, connection: CancellationToken) -> Self {
        Self {
            service,
            who: Who::InRequest,
            announces: AtomicBool::new(false),
            _ends: Some(connection.clone().drop_guard()),
            connection,
        }
    }

    fn caller(&self, context: &RequestContext<RoleServer>) -> Caller {
        let caller = match &self.who {
            Who::Is(caller) => caller.clone(),
            Who::InRequest => context
                .extensions
                .get::<http::request::Parts>()
                .and_then(|parts| parts.extensions.get::<Caller>().cloned())
                .unwrap_or_else(Caller::nobody),
        };
        match context.client_info() {
            Some(client) => caller.with_client(&client.name, &client.version),
            None => caller,
        }
    }
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_tool_list_changed()
            .enable_resources()
            .build();
        let server = Implementation::new("toolcell", env!("CARGO_PKG_VERSION"))
            .with_title("Toolcell")
            .with_description(env!("CARGO_PKG_DESCRIPTION"));
        ServerConfig::new(capabilities)
            .with_server_info(server)
            .with_instructions(INSTRUCTIONS)
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        Some(self.service.catalog.tool(name)?.definition.clone())
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let caller = self.caller(&context);
        let snapshot = self.service.catalog.snapshot();
        let after = cursor(request.as_ref())?;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut names = snapshot
            .tools
            .range::<str, _>((from, Bound::Unbounded))
            .filter(|(_, tool)| caller.may_call(&tool.compiled.resolved));
        let page: Vec<_> = names.by_ref().take(PAGE).collect();
        let last = page.last().map(|(name, _)| name.as_str());
        let next_cursor = names.next().and(last).map(|name| format!("{CURSOR}{name}"));
        let tools = page
            .into_iter()
            .map(|(_, tool)| tool.definition.clone())
            .collect();
        Ok(ListToolsResult {
            next_cursor,
            ..ListToolsResult::with_all_items(tools)
        })
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let reporting = context.meta.get_progress_token().map(|token| {
            let (sender, receiver) = mpsc::channel(progress::QUEUE_MAX);
            let peer = context.peer.clone();
            (
                sender,
                tokio::spawn(progress::report(receiver, peer, token)),
            )
        });
        let (progress, reports) = reporting.unzip();
        let mut call = pin!(self.service.call(Request {
            tool: request.name.into_owned(),
            arguments: request.arguments.map_or(Value::Null, Value::Object),
            asker: Asker {
                caller: self.caller(&context),
                cancel: self.connection.child_token(),
                progress,
                terminal: false,
            },
        }));
        let called = tokio::select! {
            biased;
            called = &mut call => called,
            () = context.ct.cancelled() => {
                if !self.connection.is_cancelled() {
                    // The call is ended as its future is dropped; a cancelled request is not
                    // answered.
                    return Err(ErrorData::internal_error("the request was cancelled", None));
                }
                // Everything is about to end, and this call is on its way to an answer.
                call.await
            }
        };
        if let Some(reports) = reports {
            // Everything about a call comes before its result, for as long as somebody listens.
            let _ = self.connection.run_until_cancelled(reports).await;
        }
        let answer = called.map_err(|error| ErrorData::invalid_params(error.to_string(), None))?;
        Ok(result(&answer).into())
    }

    async fn list_resources(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let listed = self.service.results.list(&self.caller(&context).id);
        // A cursor whose result has expired meanwhile begins anew: better twice than not at all.
        let after = cursor(request.as_ref())?;
        let from = after
            .and_then(|after| listed.iter().position(|result| result.uri == after))
            .map_or(0, |position| position + 1);
        let rest = listed.get(from..).unwrap_or_default();
        let page = &rest[..rest.len().min(PAGE)];
        let last = page.last().filter(|_| rest.len() > PAGE);
        let resources = page.iter().map(|result| {
            Resource::new(result.uri.clone(), result.name.clone())
                .with_description(format!("{} of a call of `{}`", result.name, result.tool))
                .with_mime_type(result.mime_type.clone())
                .with_size(result.bytes)
        });
        Ok(ListResourcesResult {
            next_cursor: last.map(|result| format!("{CURSOR}{}", result.uri)),
            ..ListResourcesResult::with_all_items(resources.collect())
        })
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let caller = self.caller(&context).id;
        let results = self.service.results.clone();
        let uri = request.uri;
        let asked = uri.clone();
        let part = tokio::task::spawn_blocking(move || results.read(&caller, &asked))
            .await
            .map_err(|error| ErrorData::internal_error(error.to_string(), None))?
            .map_err(|error| match error {
                ResultsError::Unknown { uri } => {
                    let message = format!("there is no result `{uri}`, or it has expired");
                    ErrorData::resource_not_found(message, Some(json!({ "uri": uri })))
                }
                ResultsError::Offset { .. } => ErrorData::invalid_params(error.to_string(), None),
                other => ErrorData::internal_error(other.to_string(), None),
            })?;
        Ok(ReadResourceResult::new(vec![contents(part, uri)]).into())
    }

    async fn on_initialized(&self, context: NotificationContext<RoleServer>) {
        if self.announces.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut changes = self.service.catalog.changes();
        let connection = self.connection.clone();
        let peer = context.peer;
        tokio::spawn(connection.run_until_cancelled_owned(async move {
            while changes.changed().await.is_ok() {
                if peer.notify_tool_list_changed().await.is_err() {
                    break;
                }
            }
        }));
    }

    fn accepted_subscription_filter(
        &self,
        requested: &SubscriptionFilter,
    ) -> Option<SubscriptionFilter> {
        Some(requested.supported_by(&self.get_info().capabilities))
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let mut changes = self.service.catalog.changes();
        let wanted = context.accepted().tools_list_changed == Some(true);
        loop {
            tokio::select! {
                () = context.cancelled() => return Ok(()),
                () = self.connection.cancelled() => return Ok(()),
                () = self.service.closing().cancelled() => return Ok(()),
                news = changes.changed(), if wanted => {
                    if news.is_err() || context.sink().notify_tool_list_changed().await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn on_custom_request(
        &self,
        request: CustomRequest,
        _context: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        // A request of the protocol's own comes here if its parameters are not what it takes.
        let method = request.method;
        if METHODS.contains(&method.as_str()) {
            let message = format!("the parameters of `{method}` are not what it takes");
            return Err(ErrorData::invalid_params(message, None));
        }
        let message = format!("there is no method `{method}`");
        Err(ErrorData::new(ErrorCode::METHOD_NOT_FOUND, message, None))
    }
}

/// Methods of the protocol that have parameters to get wrong.
const METHODS: [&str; 12] = [
    "completion/complete",
    "initialize",
    "logging/setLevel",
    "prompts/get",
    "prompts/list",
    "resources/list",
    "resources/read",
    "resources/templates/list",
    "server/discover",
    "subscriptions/listen",
    "tools/call",
    "tools/list",
];

/// The answer to `tools/call`: the outcome in words, as data, and with links to what is kept.
fn result(answer: &Answer) -> CallToolResult {
    let outcome = &answer.outcome;
    let mut content = vec![ContentBlock::text(render::text(outcome))];
    for (name, stream) in [("stdout", &outcome.stdout), ("stderr", &outcome.stderr)] {
        if let Some(uri) = &stream.resource {
            content.push(ContentBlock::resource_link(
                Resource::new(uri.clone(), name)
                    .with_mime_type("text/plain; charset=utf-8")
                    .with_size(stream.resource_bytes.unwrap_or(stream.bytes)),
            ));
        }
    }
    for file in &outcome.files {
        content.push(ContentBlock::resource_link(
            Resource::new(file.resource.clone(), file.name.clone())
                .with_mime_type(file.mime_type.clone())
                .with_size(file.bytes),
        ));
    }
    let mut result = if render::is_error(outcome) || answer.receipt.is_none() {
        CallToolResult::error(content)
    } else {
        CallToolResult::success(content)
    };
    // An outcome has nothing in it that JSON lacks.
    result.structured_content = serde_json::to_value(outcome).ok();
    let receipt = answer.receipt.as_ref().map(|link| {
        let mut meta = MetaObject::default();
        let place = json!({ "sequence": link.records - 1, "hash": link.hash });
        meta.0.insert(RECEIPT.to_owned(), place);
        meta
    });
    result.with_meta(receipt)
}

/// A part of a result as text if it is text, else in base64.
fn contents(part: Part, uri: String) -> ResourceContents {
    let (total, next) = (part.total, part.next);
    let contents = match String::from_utf8(part.contents) {
        Ok(text) => ResourceContents::text(text, uri),
        Err(error) => ResourceContents::blob(BASE64.encode(error.as_bytes()), uri),
    };
    let mut meta = MetaObject::default();
    meta.0
        .insert(PART.to_owned(), json!({ "total": total, "next": next }));
    contents.with_mime_type(part.mime_type).with_meta(meta)
}

/// What a cursor of ours comes after.
fn cursor(request: Option<&PaginatedRequestParams>) -> Result<Option<&str>, ErrorData> {
    let Some(cursor) = request.and_then(|request| request.cursor.as_deref()) else {
        return Ok(None);
    };
    match cursor.strip_prefix(CURSOR) {
        Some(after) => Ok(Some(after)),
        None => Err(ErrorData::invalid_params(
            "the cursor is none that this server gave",
            None,
        )),
    }
}
