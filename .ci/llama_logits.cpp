// Logits of llama.cpp, as numbers: `.ci/peers` builds it, and tests of exports compare them with slm's.
//
//     llama-logits MODEL IDS OUT GREEDY
//
// IDS has a sequence of token ids on each line. OUT gets the logits of every position as 32-bit floats, one sequence after the
// other. After the first sequence GREEDY more tokens are generated, the most likely one each time, and printed. All is
// computed with a cache of 32-bit floats and without flash attention; weights are used as the file has them.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "llama.h"

[[noreturn]] static void fail(const std::string & what) {
    std::fprintf(stderr, "llama-logits: %s\n", what.c_str());
    std::exit(1);
}

// Feeds `ids` from position `past` on; the logits of each are in the context.
static void decode(llama_context * context, const std::vector<llama_token> & ids, int past) {
    llama_batch batch = llama_batch_init(int(ids.size()), 0, 1);
    batch.n_tokens = int(ids.size());
    for (int i = 0; i < batch.n_tokens; i++) {
        batch.token[i] = ids[i];
        batch.pos[i] = past + i;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = 1;
    }
    if (llama_decode(context, batch) != 0) {
        fail("llama_decode failed");
    }
    llama_batch_free(batch);
}

int main(int argc, char ** argv) {
    if (argc != 5) {
        fail("usage: llama-logits MODEL IDS OUT GREEDY");
    }
    std::vector<std::vector<llama_token>> sequences;
    std::ifstream input(argv[2]);
    for (std::string line; std::getline(input, line);) {
        std::istringstream numbers(line);
        std::vector<llama_token> ids;
        for (llama_token id; numbers >> id;) {
            ids.push_back(id);
        }
        sequences.push_back(ids);
    }
    const int greedy = std::atoi(argv[4]);
    if (sequences.empty() || sequences[0].empty()) {
        fail(std::string("no ids in ") + argv[2]);
    }
    size_t longest = sequences[0].size() + greedy;
    for (const auto & ids : sequences) {
        longest = std::max(longest, ids.size());
    }

    llama_log_set([](ggml_log_level level, const char * text, void *) {
        if (level == GGML_LOG_LEVEL_ERROR) {
            std::fputs(text, stderr);
        }
    }, nullptr);
    llama_backend_init();
    llama_model_params model_params = llama_model_default_params();
    // No weights in another layout: some of the kernels for these crash where a virtual machine claims to have AMX.
    model_params.use_extra_bufts = false;
    llama_model * model = llama_model_load_from_file(argv[1], model_params);
    if (!model) {
        fail(std::string("cannot load ") + argv[1]);
    }
    llama_context_params params = llama_context_default_params();
    params.n_ctx = params.n_batch = params.n_ubatch = uint32_t((longest + 31) / 32 * 32);
    // One thread: several wait for each other at every layer of a small model.
    params.n_threads = params.n_threads_batch = 1;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.type_k = params.type_v = GGML_TYPE_F32;
    params.swa_full = true;
    llama_context * context = llama_init_from_model(model, params);
    if (!context) {
        fail("cannot make a context");
    }
    const int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
    std::ofstream output(argv[3], std::ios::binary);
    const auto write = [&](int i) {
        output.write(reinterpret_cast<const char *>(llama_get_logits_ith(context, i)), sizeof(float) * vocabulary);
    };
    const auto best = [&](int i) {
        const float * row = llama_get_logits_ith(context, i);
        return llama_token(std::max_element(row, row + vocabulary) - row);
    };
    for (size_t at = 0; at < sequences.size(); at++) {
        llama_memory_clear(llama_get_memory(context), true);
        decode(context, sequences[at], 0);
        const int count = int(sequences[at].size());
        for (int i = 0; i < count; i++) {
            write(i);
        }
        if (at > 0) {
            continue;
        }
        llama_token next = best(count - 1);
        for (int i = 0; i < greedy; i++) {
            std::printf("%d ", next);
            decode(context, {next}, count + i);
            next = best(0);
        }
        std::printf("\n");
    }
    if (!output.flush()) {
        fail(std::string("cannot write ") + argv[3]);
    }
    llama_free(context);
    llama_model_free(model);
    return 0;
}
