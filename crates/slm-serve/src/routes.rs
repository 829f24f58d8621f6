//! The endpoints.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Path, Request as HttpRequest, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event as ServerEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::access::Access;
use crate::api::{PromptField, Request, Wanted};
use crate::error::ApiError;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::model::{Chat, ServedModel};
use crate::responses::{Choice, Head, Kind, Usage};
use crate::scheduler::Queue;
use crate::sequence::{Event, FinishReason, Job};

/// Maximum number of prompts in one request.
const MAX_PROMPTS: usize = 16;

/// The state that all endpoints share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) served: Arc<ServedModel>,
    pub(crate) queue: Queue,
    pub(crate) limits: Limits,
    pub(crate) access: Access,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) started: u64,
    pub(crate) answers: AtomicU64,
}

type Shared = State<Arc<App>>;

pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/completions", post(completions))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .with_state(app)
}

/// Seconds since the Unix epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

async fn chat_completions(State(app): Shared, request: HttpRequest) -> Response {
    let answer = async {
        app.access.check(request.headers())?;
        let arrived = Instant::now();
        let (wanted, messages) = read(&app, request).await?.chat()?;
        let Some(chat) = &app.served.chat else {
            let message = "the model has no chat template; use /v1/completions";
            return Err(ApiError::new(StatusCode::BAD_REQUEST, message).with_code("no_chat_template"));
        };
        let prompt = chat_prompt(&app.served, chat, &messages)?;
        let stop_ids = chat.stop_ids.clone();
        answer(&app, Kind::Chat, vec![prompt], &wanted, stop_ids.into(), arrived).await
    };
    counted(&app, "/v1/chat/completions", answer.await)
}

async fn completions(State(app): Shared, request: HttpRequest) -> Response {
    let answer = async {
        app.access.check(request.headers())?;
        let arrived = Instant::now();
        let (wanted, prompt) = read(&app, request).await?.completion()?;
        let prompts = completion_prompts(&app.served, prompt)?;
        let stop_ids = app.served.stop_ids.clone();
        answer(&app, Kind::Completion, prompts, &wanted, stop_ids.into(), arrived).await
    };
    counted(&app, "/v1/completions", answer.await)
}

async fn models(State(app): Shared, headers: HeaderMap) -> Response {
    let list = app
        .access
        .check(&headers)
        .map(|()| Json(json!({"object": "list", "data": [model_object(&app)]})).into_response());
    counted(&app, "/v1/models", list)
}

async fn model(State(app): Shared, headers: HeaderMap, Path(name): Path<String>) -> Response {
    let object = app.access.check(&headers).and_then(|()| match name == app.served.name {
        true => Ok(Json(model_object(&app)).into_response()),
        false => {
            let message = format!("there is no model {name:?} here; the model is {:?}", app.served.name);
            Err(ApiError::new(StatusCode::NOT_FOUND, message).with_code("model_not_found"))
        }
    });
    counted(&app, "/v1/models/{name}", object)
}

fn model_object(app: &App) -> Value {
    json!({"id": app.served.name, "object": "model", "created": app.started, "owned_by": "slm"})
}

async fn health(State(app): Shared) -> Response {
    let health = match app.queue.is_alive() {
        true => Ok(Json(json!({"status": "ok"})).into_response()),
        false => Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the model's thread has ended; restart the server",
        )),
    };
    counted(&app, "/health", health)
}

async fn metrics(State(app): Shared) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, app.metrics.render()).into_response()
}

async fn not_found(State(app): Shared, request: HttpRequest) -> Response {
    let message = format!(
        "there is no {}; see /v1/chat/completions, /v1/completions, /v1/models, /health and /metrics",
        request.uri().path()
    );
    counted(&app, "other", Err(ApiError::new(StatusCode::NOT_FOUND, message)))
}

async fn wrong_method(State(app): Shared, request: HttpRequest) -> Response {
    let message = format!("{} does not take {}", request.uri().path(), request.method());
    counted(&app, "other", Err(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)))
}

fn counted(app: &App, path: &'static str, result: Result<Response, ApiError>) -> Response {
    let response = result.unwrap_or_else(IntoResponse::into_response);
    app.metrics.answered(path, response.status().as_u16());
    response
}

/// Reads and parses the body of a request.
async fn read(app: &App, request: HttpRequest) -> Result<Request, ApiError> {
    let limit = app.limits.body_bytes;
    let too_large = || {
        let message = format!("the body is larger than {limit} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    let announced = request.headers().get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > limit as u64) {
        return Err(too_large());
    }
    let body = tokio::time::timeout(app.limits.idle_time, to_bytes(request.into_body(), limit)).await;
    let body =
        body.map_err(|_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"))?;
    Request::from_json(&body.map_err(|_| too_large())?)
}

fn chat_prompt(
    served: &ServedModel,
    chat: &Chat,
    messages: &[slm_chat::Message],
) -> Result<Vec<u32>, ApiError> {
    let text = chat.template.render(messages, &chat.render);
    let text =
        text.map_err(|error| ApiError::invalid("messages", format!("the chat template refuses: {error}")))?;
    served.tokenizer.encode(&text).map_err(|error| ApiError::internal(error.to_string()))
}

fn completion_prompts(served: &ServedModel, prompt: PromptField) -> Result<Vec<Vec<u32>>, ApiError> {
    let encode = |text: &String| {
        let prompt = served.tokenizer.encode_prompt(text);
        prompt.map(|prompt| prompt.ids).map_err(|error| ApiError::internal(error.to_string()))
    };
    let count = match &prompt {
        PromptField::Text(_) | PromptField::Ids(_) => 1,
        PromptField::Texts(texts) => texts.len(),
        PromptField::ManyIds(many) => many.len(),
    };
    if !(1..=MAX_PROMPTS).contains(&count) {
        return Err(ApiError::invalid("prompt", format!("{count} prompts; use 1 to {MAX_PROMPTS}")));
    }
    match prompt {
        PromptField::Text(text) => Ok(vec![encode(&text)?]),
        PromptField::Texts(texts) => texts.iter().map(encode).collect(),
        PromptField::Ids(ids) => Ok(vec![ids]),
        PromptField::ManyIds(many) => Ok(many),
    }
}

/// Computes the answers to all prompts, whole or as a stream.
async fn answer(
    app: &Arc<App>,
    kind: Kind,
    prompts: Vec<Vec<u32>>,
    wanted: &Wanted,
    stop_ids: Arc<[u32]>,
    arrived: Instant,
) -> Result<Response, ApiError> {
    let param = if kind == Kind::Chat { "messages" } else { "prompt" };
    let config = app.served.model.config();
    let mut prompt_tokens = 0;
    for prompt in &prompts {
        if prompt.is_empty() {
            return Err(ApiError::invalid(param, "the prompt has no tokens; give at least one word"));
        }
        app.served.model.check_ids(prompt).map_err(|error| ApiError::invalid(param, error.to_string()))?;
        if prompt.len() > config.max_position_embeddings {
            let message = format!(
                "the prompt has {} tokens, but the model takes {}",
                prompt.len(),
                config.max_position_embeddings
            );
            return Err(ApiError::invalid(param, message).with_code("context_length_exceeded"));
        }
        prompt_tokens += prompt.len();
    }
    let hidden = wanted.stops.iter().filter_map(|text| app.served.tokenizer.hidden_token_id(text));
    let stop_ids: Arc<[u32]> = stop_ids.iter().copied().chain(hidden).collect();
    let mut answers = Vec::new();
    for prompt in &prompts {
        for choice in 0..wanted.choices {
            let (events, receiver) = unbounded_channel();
            let room = config.max_position_embeddings + 1 - prompt.len();
            let most = wanted.max_tokens.unwrap_or(usize::MAX).min(app.limits.new_tokens);
            let mut wanted = wanted.clone();
            wanted.sampling.seed = wanted.sampling.seed.wrapping_add(choice as u64);
            app.queue.submit(Job {
                prompt: prompt.clone(),
                new_tokens: most.min(room),
                wanted,
                stop_ids: Arc::clone(&stop_ids),
                continues_prompt: kind == Kind::Completion,
                deadline: arrived + app.limits.request_time,
                events,
            })?;
            answers.push(receiver);
        }
    }
    let number = app.answers.fetch_add(1, Ordering::Relaxed);
    let prefix = if kind == Kind::Chat { "chatcmpl" } else { "cmpl" };
    let head = Head {
        kind,
        id: format!("{prefix}-{:x}-{number:x}", app.started),
        created: now(),
        model: app.served.name.clone(),
    };
    match wanted.stream {
        true => Ok(streamed(Arc::clone(app), head, answers, prompt_tokens, wanted.include_usage)),
        false => whole(app, &head, answers, prompt_tokens, wanted.logprobs.is_some()).await,
    }
}

/// Waits until all answers are finished.
async fn whole(
    app: &App,
    head: &Head,
    answers: Vec<UnboundedReceiver<Event>>,
    prompt_tokens: usize,
    with_logprobs: bool,
) -> Result<Response, ApiError> {
    let (mut choices, mut completion_tokens) = (Vec::new(), 0);
    for mut events in answers {
        let (mut all, mut logprobs) = (String::new(), Vec::new());
        let reason = loop {
            match events.recv().await {
                Some(Event::Token { text, logprob }) => {
                    all += &text;
                    logprobs.extend(logprob);
                }
                Some(Event::Done { text, reason, tokens }) => {
                    all += &text;
                    completion_tokens += tokens;
                    break reason;
                }
                Some(Event::Failed(message)) => return Err(ApiError::internal(message)),
                None => return Err(ApiError::internal("the model's thread has ended")),
            }
        };
        choices.push(Choice { text: all, reason, logprobs: with_logprobs.then_some(logprobs) });
    }
    let usage = Usage::new(prompt_tokens, completion_tokens);
    Ok(Json(head.whole(choices, usage, &app.served.tokenizer)).into_response())
}

/// Streams the answers as server-sent events, one answer after another.
fn streamed(
    app: Arc<App>,
    head: Head,
    answers: Vec<UnboundedReceiver<Event>>,
    prompt_tokens: usize,
    include_usage: bool,
) -> Response {
    let state = StreamState {
        app,
        head,
        answers: answers.into_iter(),
        current: None,
        next_index: 0,
        usage: include_usage.then(|| Usage::new(prompt_tokens, 0)),
        ended: false,
    };
    let events = stream::unfold(state, |mut state| async move {
        let data = state.next().await?;
        Some((Ok::<_, Infallible>(ServerEvent::default().data(data)), state))
    });
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

struct StreamState {
    app: Arc<App>,
    head: Head,
    answers: std::vec::IntoIter<UnboundedReceiver<Event>>,
    /// The answer being sent: its index, its events, and the number of characters sent.
    current: Option<(usize, UnboundedReceiver<Event>, usize)>,
    next_index: usize,
    /// Token counts of the whole stream; `None` if the request does not ask for them or they were sent already.
    usage: Option<Usage>,
    ended: bool,
}

impl StreamState {
    /// Returns the data of the next event.
    async fn next(&mut self) -> Option<String> {
        loop {
            if self.ended {
                return None;
            }
            let Some((index, events, offset)) = &mut self.current else {
                let Some(events) = self.answers.next() else {
                    if let Some(usage) = self.usage.take() {
                        return Some(self.head.usage(usage).to_string());
                    }
                    self.ended = true;
                    return Some("[DONE]".to_owned());
                };
                let index = self.next_index;
                self.next_index += 1;
                self.current = Some((index, events, 0));
                match self.head.opening(index) {
                    Some(opening) => return Some(opening.to_string()),
                    None => continue,
                }
            };
            let tokenizer = &self.app.served.tokenizer;
            match events.recv().await {
                Some(Event::Token { text, logprob }) => {
                    if text.is_empty() && logprob.is_none() {
                        continue;
                    }
                    let part = self.head.part(*index, &text, *offset, logprob.as_ref(), None, tokenizer);
                    *offset += text.chars().count();
                    return Some(part.to_string());
                }
                Some(Event::Done { text, reason, tokens }) => {
                    if let Some(usage) = &mut self.usage {
                        *usage = Usage::new(usage.prompt_tokens, usage.completion_tokens + tokens);
                    }
                    return Some(self.last_part(&text, reason));
                }
                Some(Event::Failed(message)) => return Some(self.failed(message)),
                None => return Some(self.failed("the model's thread has ended".to_owned())),
            }
        }
    }

    fn last_part(&mut self, text: &str, reason: FinishReason) -> String {
        let (index, offset) = self.current.take().map_or((0, 0), |(index, _, offset)| (index, offset));
        self.head.part(index, text, offset, None, Some(reason), &self.app.served.tokenizer).to_string()
    }

    fn failed(&mut self, message: String) -> String {
        self.ended = true;
        ApiError::internal(message).body().to_string()
    }
}
