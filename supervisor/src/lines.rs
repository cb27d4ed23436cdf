//! JSON-RPC over lines, with an answer to everything that wants one.
//!
//! rmcp's own transport skips lines that are malformed or too long, and the request that such a
//! line meant to be then waits for ever. Here each gets an error: with the request's id, if it can
//! still be made out, else with `null`, as JSON-RPC has it.

use std::collections::HashSet;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use rmcp::model::{
    ClientJsonRpcMessage, ClientNotification, ClientRequest, ErrorCode, GetMeta, JsonRpcMessage,
    ProtocolVersion, RequestId, ServerJsonRpcMessage,
};
use rmcp::service::RoleServer;
use rmcp::transport::Transport;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use crate::keys;
use crate::scan::Scan;

/// Longest message that is read, in bytes: enough for the largest arguments that a profile may
/// allow, escaped, and little enough to be parsed while others wait.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// Most requests of one client that are being served, or whose answers it has not taken, at once.
pub const REQUESTS_MAX: usize = 256;
/// Bytes read at a time.
const READ_BYTES: usize = 64 << 10;
const UTF8_BOM: &[u8] = b"\xEF\xBB\xBF";

/// One client on a pair of byte streams.
pub struct Lines<R, W> {
    read: BufReader<R>,
    write: Arc<Mutex<Option<W>>>,
    line: Vec<u8>,
    /// What is known of a line that is already too long, until its end.
    overlong: Option<Scan>,
    /// An error that is being written: kept here because `receive` can be dropped at every await.
    answer: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send>>>,
    /// Whether the client has begun to speak, by `initialize` or a request that carries the
    /// protocol's version. rmcp hangs up on a client that sends anything but a request before.
    opened: bool,
    in_flight: Arc<watch::Sender<InFlight>>,
    /// A clone is held for each message that waits to be written. A client that does not read is
    /// not listened to for long: what it should have read would pile up here.
    unwritten: Arc<()>,
    ended: CancellationToken,
}

impl<R, W> Lines<R, W>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send + 'static,
{
    /// Reads from one stream and writes to the other; `ended` is cancelled when either is at its
    /// end.
    pub fn new(read: R, write: W, ended: CancellationToken) -> Self {
        Self {
            read: BufReader::with_capacity(READ_BYTES, read),
            write: Arc::new(Mutex::new(Some(write))),
            line: Vec::new(),
            overlong: None,
            answer: None,
            opened: false,
            in_flight: Arc::default(),
            unwritten: Arc::default(),
            ended,
        }
    }

    /// What is being served, as it changes.
    #[must_use]
    pub fn in_flight(&self) -> watch::Receiver<InFlight> {
        self.in_flight.subscribe()
    }

    /// Reads up to the end of a line into `self.line`; `None` at the end of the stream.
    ///
    /// What was read stays in `self` when the future is dropped, so that nothing is lost.
    async fn next(&mut self) -> io::Result<Option<Next>> {
        loop {
            let available = self.read.fill_buf().await?;
            if available.is_empty() {
                // A last line without an end is a line.
                return Ok(match self.overlong.take() {
                    Some(scan) => Some(Next::Overlong(scan)),
                    None if self.line.is_empty() => None,
                    None => Some(Next::Line),
                });
            }
            let newline = available.iter().position(|byte| *byte == b'\n');
            let part = &available[..newline.unwrap_or(available.len())];
            if let Some(scan) = &mut self.overlong {
                scan.feed(part);
            } else if self.line.len() + part.len() > MESSAGE_BYTES_MAX {
                let mut scan = Scan::default();
                scan.feed(&self.line);
                scan.feed(part);
                self.line = Vec::new();
                self.overlong = Some(scan);
            } else {
                self.line.extend_from_slice(part);
            }
            let consumed = part.len() + usize::from(newline.is_some());
            self.read.consume(consumed);
            if newline.is_some() {
                return Ok(Some(match self.overlong.take() {
                    Some(scan) => Next::Overlong(scan),
                    None => Next::Line,
                }));
            }
        }
    }

    /// Turns the line into a message, or into an answer to what it should have been.
    fn message(&mut self) -> Option<ClientJsonRpcMessage> {
        let line = std::mem::take(&mut self.line);
        let text = line.strip_prefix(UTF8_BOM).unwrap_or(&line);
        if text.trim_ascii().is_empty() {
            return None;
        }
        match serde_json::from_slice::<ClientJsonRpcMessage>(text) {
            Ok(message) => match (&message, keys::repeated(text)) {
                (JsonRpcMessage::Request(request), Some(key)) => {
                    let id = request.id.clone();
                    self.refuse(Some(&id), ErrorCode::INVALID_PARAMS, &given_twice(&key));
                    None
                }
                _ => self.admit(message),
            },
            Err(error) => {
                let mut scan = Scan::default();
                scan.feed(text);
                self.refuse_text(&scan, &error);
                None
            }
        }
    }

    fn refuse_text(&mut self, scan: &Scan, error: &serde_json::Error) {
        tracing::debug!(%error, "message refused");
        let (code, message) = if error.is_syntax() || error.is_eof() {
            let said = error.to_string();
            let hint = if said.contains("surrogate") || said.contains("hex escape") {
                "; hint: half of a surrogate pair is no text, so it cannot be sent"
            } else {
                ""
            };
            let message = format!("the message is no valid JSON: {said}{hint}");
            (ErrorCode::PARSE_ERROR, message)
        } else if scan.is_array() {
            let message = "batches are not part of MCP; hint: send each message on its own line";
            (ErrorCode::INVALID_REQUEST, message.to_owned())
        } else if scan.is_request() && scan.id().is_none() && !scan.has_id() {
            // A notification is never answered, whatever is wrong with it.
            return;
        } else {
            let message = "the message is no JSON-RPC 2.0 request, notification or response";
            (ErrorCode::INVALID_REQUEST, message.to_owned())
        };
        let id = if scan.is_request() { scan.id() } else { None };
        self.refuse(id.as_ref(), code, &message);
    }

    /// Lets a well-formed message through, unless it would do harm.
    fn admit(&mut self, message: ClientJsonRpcMessage) -> Option<ClientJsonRpcMessage> {
        match &message {
            JsonRpcMessage::Request(request) => {
                let unwritten = Arc::strong_count(&self.unwritten) - 1;
                let mut refused = None;
                self.in_flight.send_modify(|in_flight| {
                    if in_flight.contains(&request.id) {
                        // The answers to both would be taken for the first one's.
                        refused = Some("a request with this id is still being served".to_owned());
                    } else if in_flight.len() + unwritten >= REQUESTS_MAX {
                        refused = Some(format!("more than {REQUESTS_MAX} requests at once"));
                    } else {
                        in_flight.insert(request.id.clone(), &request.request);
                    }
                });
                if let Some(refused) = refused {
                    self.refuse(Some(&request.id), ErrorCode::INVALID_REQUEST, &refused);
                    return None;
                }
                self.opened |= opens(&request.request);
            }
            _ if !self.opened => {
                tracing::debug!("message before `initialize` ignored");
                return None;
            }
            JsonRpcMessage::Notification(notification) => {
                if let ClientNotification::CancelledNotification(cancelled) =
                    &notification.notification
                    && let Some(id) = &cancelled.params.request_id
                {
                    // A cancelled request is not answered.
                    self.in_flight.send_modify(|in_flight| in_flight.remove(id));
                }
            }
            JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_) => {}
        }
        Some(message)
    }

    /// Begins to write an error.
    fn refuse(&mut self, id: Option<&RequestId>, code: ErrorCode, message: &str) {
        let mut text = json!({
            "jsonrpc": "2.0",
            "id": id,
            "error": {"code": code, "message": message},
        })
        .to_string()
        .into_bytes();
        text.push(b'\n');
        self.answer = Some(Box::pin(write(Arc::clone(&self.write), text)));
    }
}

fn given_twice(key: &str) -> String {
    format!("the key `{key}` is given twice in one object; hint: give it once")
}

/// Requests that were not answered yet.
#[derive(Debug, Default)]
pub struct InFlight {
    requests: HashSet<RequestId>,
    subscriptions: HashSet<RequestId>,
}

impl InFlight {
    /// Whether every request has its answer, but for those that last as long as the connection.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.requests.is_empty()
    }

    fn len(&self) -> usize {
        self.requests.len() + self.subscriptions.len()
    }

    fn contains(&self, id: &RequestId) -> bool {
        self.requests.contains(id) || self.subscriptions.contains(id)
    }

    fn insert(&mut self, id: RequestId, request: &ClientRequest) {
        match request {
            ClientRequest::SubscriptionsListenRequest(_) => self.subscriptions.insert(id),
            _ => self.requests.insert(id),
        };
    }

    fn remove(&mut self, id: &RequestId) {
        self.requests.remove(id);
        self.subscriptions.remove(id);
    }
}

enum Next {
    /// It is in `line`.
    Line,
    /// It was too long, and is gone.
    Overlong(Scan),
}

impl<R, W> Transport<RoleServer> for Lines<R, W>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send + 'static,
{
    type Error = io::Error;

    fn send(
        &mut self,
        mut item: ServerJsonRpcMessage,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        if let JsonRpcMessage::Error(answer) = &mut item
            && answer.error.code == ErrorCode::METHOD_NOT_FOUND
            && !answer.error.message.contains(' ')
        {
            // rmcp says no more than the name of a method that it knows and we do not have.
            let method = &answer.error.message;
            answer.error.message = format!("there is no method `{method}` here").into();
        }
        let answered = match &item {
            JsonRpcMessage::Response(response) => Some(&response.id),
            JsonRpcMessage::Error(error) => error.id.as_ref(),
            JsonRpcMessage::Request(_) | JsonRpcMessage::Notification(_) => None,
        };
        if let Some(id) = answered {
            self.in_flight.send_modify(|in_flight| in_flight.remove(id));
        }
        let output = Arc::clone(&self.write);
        let ended = self.ended.clone();
        let unwritten = Arc::clone(&self.unwritten);
        async move {
            let mut text = serde_json::to_vec(&item)?;
            text.push(b'\n');
            let written = write(output, text).await.inspect_err(|_| ended.cancel());
            drop(unwritten);
            written
        }
    }

    async fn receive(&mut self) -> Option<ClientJsonRpcMessage> {
        loop {
            if let Some(answer) = &mut self.answer {
                let written = answer.await;
                self.answer = None;
                if written.is_err() {
                    self.ended.cancel();
                    return None;
                }
            }
            match self.next().await {
                Ok(Some(Next::Line)) => {
                    if let Some(message) = self.message() {
                        return Some(message);
                    }
                }
                Ok(Some(Next::Overlong(scan))) => {
                    let message = format!("the message is longer than {MESSAGE_BYTES_MAX} bytes");
                    let id = if scan.is_request() { scan.id() } else { None };
                    self.refuse(id.as_ref(), ErrorCode::INVALID_REQUEST, &message);
                }
                Ok(None) => {
                    // A client that has said all it wanted may still listen: were this the end of
                    // the transport, rmcp would send it no more progress, and lose the answers that
                    // come after it. Whoever waits for `ended` hangs up in the end.
                    self.ended.cancel();
                    std::future::pending::<()>().await;
                }
                Err(error) => {
                    tracing::warn!(%error, "could not read from the client");
                    self.ended.cancel();
                    return None;
                }
            }
        }
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        let mut output = self.write.lock().await;
        match output.take() {
            Some(mut output) => output.shutdown().await,
            None => Ok(()),
        }
    }
}

/// Writes a line that nothing comes in between.
async fn write<W: AsyncWrite + Unpin>(
    output: Arc<Mutex<Option<W>>>,
    text: Vec<u8>,
) -> io::Result<()> {
    let mut output = output.lock().await;
    let output = output.as_mut().ok_or(io::ErrorKind::NotConnected)?;
    output.write_all(&text).await?;
    output.flush().await
}

/// Whether rmcp takes this request for the beginning of one era or the other.
fn opens(request: &ClientRequest) -> bool {
    match request {
        ClientRequest::InitializeRequest(_) => true,
        ClientRequest::DiscoverRequest(_) | ClientRequest::PingRequest(_) => false,
        other => {
            let meta = other.get_meta();
            meta.missing_required_keys(&ProtocolVersion::V_2026_07_28)
                .is_empty()
                && meta
                    .protocol_version()
                    .is_some_and(|version| ProtocolVersion::KNOWN_VERSIONS.contains(&version))
        }
    }
}
