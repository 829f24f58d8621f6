//! `slm doctor`

mod machine;

use clap::Args;
use serde::Serialize;
use slm_kernels::{KernelKind, measure_peak_ops, measure_read_bandwidth};

use self::machine::{Memory, huge_pages, instruction_sets, memory, processor};
use crate::context::Context;
use crate::error::Result;
use crate::shipped::Shipped;
use crate::table::bytes;

/// Number of runs of each measurement; the best one counts.
const REPEATS: usize = 3;

/// Environment variables that affect the program.
const VARIABLES: [&str; 4] = ["SLM_KERNEL", "SLM_LOG", "RAYON_NUM_THREADS", "NO_COLOR"];

/// Report on this machine: processor, kernels, memory, bandwidth. Attach the report to a bug report.
///
/// Measures the memory bandwidth for about a second. It bounds the speed of generation: tokens per second are at most
/// the bandwidth divided by the bytes of the weights. Also measures the rate of the kernel's integer operations, which
/// bounds the speed of reading prompts. --no-measure leaves both out.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Skip the measurements
    #[arg(long)]
    no_measure: bool,
}

#[derive(Serialize)]
struct DoctorResult {
    version: &'static str,
    /// Operating system and architecture.
    platform: String,
    /// `release`, or `debug`, which is slow.
    build: &'static str,
    gpu_support: bool,
    processor: Option<String>,
    /// Instruction sets that kernels use.
    instruction_sets: Vec<&'static str>,
    kernel: String,
    kernels_available: Vec<String>,
    cores: usize,
    threads: usize,
    memory: Option<Memory>,
    /// Setting of transparent huge pages: `always`, `madvise` or `never`.
    huge_pages: Option<String>,
    read_bytes_per_second: Option<f64>,
    peak_ops_per_second: Option<f64>,
    /// Environment variables that are set.
    variables: Vec<(&'static str, String)>,
    /// True if the shipped model was found.
    shipped_model: bool,
    advice: Vec<String>,
}

pub(crate) fn run(args: &DoctorArgs, context: &Context) -> Result<()> {
    let kernel = KernelKind::selected();
    let (read, peak) = if args.no_measure {
        (None, None)
    } else {
        let _spinner = context.progress.spinner("measuring");
        (Some(measure_read_bandwidth(REPEATS)), measure_peak_ops(kernel, REPEATS)?)
    };
    let variables = VARIABLES.into_iter().filter_map(|name| Some((name, std::env::var(name).ok()?)));
    let mut result = DoctorResult {
        version: env!("CARGO_PKG_VERSION"),
        platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        build: if cfg!(debug_assertions) { "debug" } else { "release" },
        gpu_support: cfg!(feature = "wgpu"),
        processor: processor(),
        instruction_sets: instruction_sets(),
        kernel: kernel.to_string(),
        kernels_available: KernelKind::available().iter().map(ToString::to_string).collect(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        threads: rayon::current_num_threads(),
        memory: memory(),
        huge_pages: huge_pages(),
        read_bytes_per_second: read,
        peak_ops_per_second: peak,
        variables: variables.collect(),
        shipped_model: Shipped::find().is_ok(),
        advice: Vec::new(),
    };
    result.advice = result.advise();
    result.say(context)?;
    context.output.result(&result)
}

impl DoctorResult {
    /// Remarks on settings that make slm slower than necessary.
    fn advise(&self) -> Vec<String> {
        let mut advice = Vec::new();
        if self.build == "debug" {
            advice.push(
                "this is a debug build, many times slower: build it with `cargo build --release -p slm-cli`",
            );
        }
        if self.kernel == "scalar" {
            advice.push("the scalar kernel is slow: no supported vector instructions were found, or SLM_KERNEL selects it");
        }
        if self.kernels_available.last().is_some_and(|best| *best != self.kernel) {
            advice.push("SLM_KERNEL forces another kernel than the fastest");
        }
        if self.huge_pages.as_deref() == Some("never") {
            advice.push(
                "transparent huge pages are off, which makes generation slower: write madvise to \
                 /sys/kernel/mm/transparent_hugepage/enabled",
            );
        }
        if self.threads < self.cores {
            advice.push("fewer threads than cores are used: RAYON_NUM_THREADS limits them");
        }
        advice.into_iter().map(str::to_owned).collect()
    }

    fn say(&self, context: &Context) -> Result<()> {
        let output = &context.output;
        let unknown = || "not known here".to_owned();
        output.headline(format!(
            "slm {} ({} build) on {}, kernel {}, {} threads",
            self.version, self.build, self.platform, self.kernel, self.threads
        ))?;
        let memory = self.memory.map_or_else(unknown, |memory| {
            format!("{}, {} of it free", bytes(memory.total_bytes), bytes(memory.available_bytes))
        });
        let sets = if self.instruction_sets.is_empty() {
            "none".to_owned()
        } else {
            self.instruction_sets.join(", ")
        };
        output.say(format!(
            "\nprocessor         {}\n\
             instructions      {sets}\n\
             kernels           {} (available: {})\n\
             cores             {}\n\
             memory            {memory}\n\
             huge pages        {}\n\
             GPU support       {}",
            self.processor.clone().unwrap_or_else(unknown),
            self.kernel,
            self.kernels_available.join(", "),
            self.cores,
            self.huge_pages.clone().unwrap_or_else(unknown),
            if self.gpu_support { "wgpu" } else { "not in this build (--features wgpu)" },
        ))?;
        if let Some(read) = self.read_bytes_per_second {
            output.say(format!(
                "reads memory at   {:.1} GB/s: a model with 100 MB of weights makes at most {:.0} tokens/s",
                read / 1e9,
                read / 1e8
            ))?;
        }
        if let Some(peak) = self.peak_ops_per_second {
            output.say(format!("multiplies at     {:.0} GOP/s in INT8", peak / 1e9))?;
        }
        let shipped = if self.shipped_model {
            "found"
        } else {
            "not found from here: run slm in a checkout, or name a model"
        };
        output.say(format!("model that ships  {shipped}"))?;
        for (name, value) in &self.variables {
            output.say(format!("environment       {name}={value}"))?;
        }
        self.advice.iter().try_for_each(|advice| output.say(format!("\nnote: {advice}")))?;
        output.say(
            "\nIn a bug report, include this report, the command line, and its output with -vv. `slm bench` measures a model.",
        )
    }
}
