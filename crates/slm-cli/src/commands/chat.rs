//! `slm chat`

mod input;
mod partner;
mod request;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use serde_json::json;
use slm_chat::Message;

use crate::commands::kv_cache_args::KvCacheArgs;
use crate::commands::sampling_args::SamplingArgs;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::out_file::OutFile;
use crate::terminal::{stderr_width, wrapped};
use input::{Input, Line};
use partner::{Answer, Partner};
use request::{HELP, Request};

/// Talk to a model, turn by turn.
///
/// Messages become text by the chat template that the model was trained with, which `slm import` keeps in the
/// checkpoint. Ctrl-C stops an answer; the part that was written stays in the conversation. At the prompt, /quit or
/// Ctrl-D ends the program, and /help lists the other commands. If standard input is not a terminal, each of its lines is a
/// message.
#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    /// Checkpoint directory, float or quantized
    #[arg(long)]
    checkpoint: PathBuf,
    /// System message that the conversation begins with [default: the template's own, if it has one]
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Jinja file to use instead of the checkpoint's chat template
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    /// Maximum number of tokens in an answer
    #[arg(long, value_name = "N", default_value_t = 512)]
    max_new_tokens: usize,
    /// 0 always takes the most likely token; higher is more varied
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    temperature: f64,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    kv_cache: KvCacheArgs,
}

/// One answer in JSON output.
#[derive(Serialize)]
struct Reply<'a> {
    role: &'static str,
    content: &'a str,
    #[serde(flatten)]
    answer: &'a Answer,
}

pub(crate) fn run(args: &ChatArgs, context: &Context) -> Result<()> {
    let checkpoint = context.open_to_load(&args.checkpoint)?;
    let model = partner::load_model(&checkpoint, args, context)?;
    let mut partner = Partner::new(&checkpoint, &model, args)?;
    let mut conversation = Conversation::new(args.system.clone());
    let mut input = Input::new()?;
    if input.is_terminal() {
        context.output.headline("Type a message, or /help. Ctrl-C stops an answer; Ctrl-D or /quit ends.")?;
    }
    loop {
        let line = match input.read(context)? {
            Line::Text(line) => line,
            Line::Stopped => {
                context.interrupt.clear()?;
                continue;
            }
            Line::End => return Ok(()),
        };
        match Request::parse(&line) {
            Request::Nothing => {}
            Request::Say(text) => reply(&mut partner, &mut conversation, text, context)?,
            Request::Reset => {
                conversation.reset();
                context.output.headline("a new conversation")?;
            }
            Request::System(text) => {
                conversation.system = (!text.is_empty()).then(|| text.to_owned());
                conversation.reset();
                let whose = if text.is_empty() { "the template's" } else { "this" };
                context.output.headline(format!("a new conversation with {whose} system message"))?;
            }
            Request::Temperature(temperature) => {
                partner.set_temperature(temperature);
                context.output.headline(format!("the temperature is {temperature}"))?;
            }
            Request::Save(path) => match conversation.save(Path::new(path)) {
                Ok(()) => context.output.headline(format!("saved {path}"))?,
                Err(error) => complain(&error, context)?,
            },
            Request::Stats => context.output.headline(partner.stats())?,
            Request::Help => context.output.headline(HELP)?,
            Request::Quit => return Ok(()),
            Request::Unknown(why) => complain(&Error::Usage(why), context)?,
        }
    }
}

/// Answers a message. If it cannot be answered, the message is withdrawn, and the conversation continues.
fn reply(
    partner: &mut Partner<'_>,
    conversation: &mut Conversation,
    text: &str,
    context: &Context,
) -> Result<()> {
    conversation.turns.push(Message::user(text));
    match partner.answer(&conversation.messages(), context) {
        Ok((content, answer)) => {
            context.output.line(&Reply { role: "assistant", content: &content, answer: &answer })?;
            if let Some(remark) = answer.remark() {
                context.output.headline(format!("[{remark}]"))?;
            }
            conversation.turns.push(Message::assistant(content));
            Ok(())
        }
        Err(error @ (Error::OutputClosed | Error::Terminated)) => Err(error),
        Err(error) => {
            conversation.turns.pop();
            complain(&error, context)
        }
    }
}

/// Reports an error in a turn; the conversation continues.
fn complain(error: &Error, context: &Context) -> Result<()> {
    eprintln!("{}", wrapped(&format!("error: {error}"), stderr_width()));
    context.output.line(&json!({ "error": { "kind": error.kind(), "message": error.to_string() } }))
}

/// The messages so far.
struct Conversation {
    system: Option<String>,
    turns: Vec<Message>,
}

impl Conversation {
    fn new(system: Option<String>) -> Self {
        Self { system, turns: Vec::new() }
    }

    fn reset(&mut self) {
        self.turns.clear();
    }

    fn messages(&self) -> Vec<Message> {
        self.system.iter().map(Message::system).chain(self.turns.iter().cloned()).collect()
    }

    /// Writes the messages as JSON. The file appears complete or not at all, and replaces only another conversation.
    fn save(&self, path: &Path) -> Result<()> {
        if path.is_file() && !is_conversation(path) {
            let detail = "already exists, and is not a conversation that /save wrote; choose another name";
            return Err(Error::file(path, detail));
        }
        let file = OutFile::of_option("/save", path, true)?;
        let messages = json!({ "messages": self.messages() });
        file.write(format!("{messages:#}\n"))
    }
}

/// Returns `true` if a file is a saved conversation, by its first bytes.
fn is_conversation(path: &Path) -> bool {
    let mut start = [0; 16];
    let read = File::open(path).and_then(|mut file| file.read(&mut start));
    read.is_ok_and(|read| start[..read].starts_with(b"{\n  \"messages\":"))
}
