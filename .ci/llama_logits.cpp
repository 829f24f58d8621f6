// Logits of llama.cpp, as numbers: `.ci/peers` builds it, and tests of exports compare them with slm's.
//
//     llama-logits MODEL IDS OUT GREEDY INPUTS
//
// IDS has a sequence of token ids on each line. OUT gets the logits of every position as 32-bit floats, one sequence after the
// other. After the first sequence GREEDY more tokens are generated, the most likely one each time, and printed. All is
// computed with a cache of 32-bit floats and without flash attention; weights are used as the file has them.
//
// INPUTS says how quantized matrices are multiplied:
//
//     own        by llama.cpp's integer kernels, which round the inputs to 8 bits in blocks of 32
//     float      the values of the weights, as ggml dequantizes them, with the inputs as they are
//     rounded    the same with inputs that are rounded to ggml's Q8_0 and back: what the kernels compute, in floats
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

#include "ggml-cpu.h"
#include "llama.h"

[[noreturn]] static void fail(const std::string & what) {
    std::fprintf(stderr, "llama-logits: %s\n", what.c_str());
    std::exit(1);
}

// Products with quantized matrices, computed anew in floats after llama.cpp has computed them.
struct FloatProducts {
    bool rounded;
    // The values of the matrices that were seen.
    std::unordered_map<const ggml_tensor *, std::vector<float>> weights;

    void replace(ggml_tensor * product) {
        ggml_tensor * weight = product->src[0];
        ggml_tensor * input = product->src[1];
        if (ggml_nrows(weight) != weight->ne[1] || !ggml_is_contiguous(weight) || !ggml_is_contiguous(input) ||
            !ggml_is_contiguous(product) || input->type != GGML_TYPE_F32) {
            fail(std::string("a product of another form: ") + product->name);
        }
        const int64_t width = weight->ne[0], rows = weight->ne[1], count = ggml_nrows(input);
        std::vector<float> & values = weights[weight];
        if (values.empty()) {
            values.resize(size_t(width * rows));
            ggml_get_type_traits(weight->type)->to_float(weight->data, values.data(), width * rows);
        }
        std::vector<float> inputs(static_cast<float *>(input->data), static_cast<float *>(input->data) + width * count);
        if (rounded) {
            std::vector<char> codes(ggml_row_size(GGML_TYPE_Q8_0, width));
            for (int64_t row = 0; row < count; row++) {
                float * at = inputs.data() + row * width;
                ggml_get_type_traits_cpu(GGML_TYPE_Q8_0)->from_float(at, codes.data(), width);
                ggml_get_type_traits(GGML_TYPE_Q8_0)->to_float(codes.data(), at, width);
            }
        }
        ggml_context * context = ggml_init({16 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true});
        ggml_tensor * left = ggml_new_tensor_2d(context, GGML_TYPE_F32, width, rows);
        ggml_tensor * right = ggml_new_tensor_2d(context, GGML_TYPE_F32, width, count);
        ggml_tensor * result = ggml_mul_mat(context, left, right);
        left->data = values.data();
        right->data = inputs.data();
        result->data = product->data;
        ggml_cgraph * graph = ggml_new_graph(context);
        ggml_build_forward_expand(graph, result);
        ggml_cplan plan = ggml_graph_plan(graph, 1, nullptr);
        std::vector<uint8_t> work(plan.work_size);
        plan.work_data = work.data();
        if (ggml_graph_compute(graph, &plan) != GGML_STATUS_SUCCESS) {
            fail("a product cannot be computed");
        }
        ggml_free(context);
    }

    // Called by llama.cpp before (`ask`) and after it computes a tensor.
    static bool evaluate(ggml_tensor * tensor, bool ask, void * self) {
        const bool mine = tensor->op == GGML_OP_MUL_MAT && ggml_is_quantized(tensor->src[0]->type);
        if (mine && !ask) {
            static_cast<FloatProducts *>(self)->replace(tensor);
        }
        return mine || !ask;
    }
};

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
    if (argc != 6) {
        fail("usage: llama-logits MODEL IDS OUT GREEDY INPUTS");
    }
    const std::string inputs = argv[5];
    if (inputs != "own" && inputs != "float" && inputs != "rounded") {
        fail("inputs must be own, float or rounded, not " + inputs);
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
    FloatProducts products = {inputs == "rounded", {}};
    if (inputs != "own") {
        params.cb_eval = FloatProducts::evaluate;
        params.cb_eval_user_data = &products;
    }
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
