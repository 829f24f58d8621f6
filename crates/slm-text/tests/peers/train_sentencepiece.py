"""Trains SentencePiece models of many kinds, and records what the library itself makes of texts.

    train_sentencepiece.py TEXT DIRECTORY

Writes NAME.model and NAME.json (a list of [text, ids, decoded]) for each kind into DIRECTORY.
"""
import io, json, sys
import sentencepiece as spm

TEXTS = [
    "Hello, world!", "once upon a time", " leading", "trailing ", "two  spaces   three", "\ttab\nline\r\nend", "1234 56.78",
    "naïve café", "你好 мир", "😀 emoji", "ﬁ ligature Ａ full", "a", "", "   ", "don't I've", "x = y[0] + {z}",
    "Ünïcödé", "it is the east, and Juliet is the sun. Arise, fair sun, and kill the envious moon",
]
LLAMA = dict(model_type="bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False)
KINDS = {
    "llama": LLAMA,
    "gemma": dict(LLAMA, add_dummy_prefix=False, user_defined_symbols=["<user>", "\n", "\u2581\u2581", "\u2581\u2581\u2581"],
                  split_digits=True, split_by_whitespace=False),
    "bpe-default": dict(model_type="bpe"),
    "bpe-user": dict(model_type="bpe", user_defined_symbols=["<user>"], control_symbols=["<mask>"]),
    "unigram-default": dict(model_type="unigram"),
    "unigram-bytes": dict(model_type="unigram", byte_fallback=True, normalization_rule_name="identity",
                          remove_extra_whitespaces=False),
    "unigram-plain": dict(model_type="unigram", normalization_rule_name="identity", add_dummy_prefix=False),
    "unigram-nfkc": dict(model_type="unigram", normalization_rule_name="nfkc", user_defined_symbols=["<user>"]),
}


def main():
    text, directory = sys.argv[1:]
    lines = open(text, encoding="utf-8").read()[:60_000].splitlines()
    for name, options in KINDS.items():
        model = io.BytesIO()
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, vocab_size=600, minloglevel=2, num_threads=1,
            hard_vocab_limit=False, **options)
        open(f"{directory}/{name}.model", "wb").write(model.getvalue())
        processor = spm.SentencePieceProcessor(model_proto=model.getvalue())
        texts = TEXTS + ["\n".join(lines[at : at + 5]) for at in range(0, 400, 40)]
        cases = [[text, processor.encode(text), processor.decode(processor.encode(text))] for text in texts]
        json.dump(cases, open(f"{directory}/{name}.json", "w"))
    print(f"sentencepiece {spm.__version__}: {len(KINDS)} models")


main()
