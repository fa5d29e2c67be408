"""Tokenizer files in the formats that models ship, and a hub on loopback that serves them."""

import base64
import contextlib
import hashlib
import http.server
import json
import threading

SENTENCES = [
    "to be, or not to be, that is the question: whether 'tis nobler in the mind to suffer",
    "the slings and arrows of outrageous fortune, or to take arms against a sea of troubles",
    "It's 12345 o'clock!  naïve café 日本語 中文 🙂",
]

#: Texts that show differences: special tokens written out, runs of spaces, composed characters, several scripts.
TEXTS = [
    "",
    "hello world",
    "  two  spaces . , ! 's n't ",
    "naïve café a\u0300 日本語 中文字 🙂🙂",
    "\n\n\t x\r\n y   ",
    "12345 3.14 IT'S",
    "<|begin|>to be<|end|>",
    "<|im_start|>user\nhi<|im_end|>",
    "<tool>{}</tool><|late|>",
    "[BOS]<|im_user|>hi<|im_end|>[EOS]<|reserved_token_400|>",
]

#: The commit of the hub's branch "main".
COMMIT = "5" * 40


def flags(content, special=True):
    off = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    return {"content": content, "special": special, **off}


def bpe(folder, config, specials=(), plain=(), first=None, vocab_size=400):
    """Write tokenizer.json and tokenizer_config.json. Return the tokenizer object of the library."""
    import tokenizers as library

    made = library.Tokenizer(library.models.BPE())
    made.normalizer = library.normalizers.NFC()
    pattern = library.Regex(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    made.pre_tokenizer = library.pre_tokenizers.Sequence(
        [
            library.pre_tokenizers.Split(pattern, behavior="isolated"),
            library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = library.decoders.ByteLevel()
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    trainer = library.trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(SENTENCES, trainer)
    made.add_special_tokens(list(specials))
    made.add_tokens([library.AddedToken(text, special=False) for text in plain])
    made.post_processor = library.processors.ByteLevel(trim_offsets=False)
    if first:
        made.post_processor = library.processors.TemplateProcessing(
            single=f"{first} $A", special_tokens=[(first, made.token_to_id(first))]
        )
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return made


def _bytes_of_characters():
    """Map each character of a byte-level vocabulary to its byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{chr(byte): byte for byte in printable}, **{chr(256 + index): byte for index, byte in enumerate(others)}}


def kimi(folder):
    """Write a small tiktoken.model and tokenizer_config.json in the format of moonshotai/Kimi-K2-Thinking."""
    vocabulary = bpe(folder, {}).get_vocab(with_added_tokens=False)
    (folder / "tokenizer.json").unlink()
    meaning = _bytes_of_characters()
    ranked = sorted((rank, bytes(meaning[character] for character in text)) for text, rank in vocabulary.items())
    lines = [base64.b64encode(token) + b" %d\n" % rank for rank, token in ranked]
    (folder / "tiktoken.model").write_bytes(b"".join(lines))
    base = len(lines)
    names = ["[BOS]", "[EOS]", "<|im_end|>", "<|im_user|>", "<|im_assistant|>", "<|im_middle|>", "[UNK]", "[PAD]"]
    added = {str(base + index): flags(name) for index, name in enumerate(names)}
    added[str(base + len(names))] = flags("<tool>", special=False)
    config = {
        "tokenizer_class": "TikTokenTokenizer",
        "added_tokens_decoder": added,
        "additional_special_tokens": names[2:6],
        "bos_token": "[BOS]",
        "eos_token": "[EOS]",
        "unk_token": "[UNK]",
        "pad_token": "[PAD]",
        "chat_template": "{% for m in messages %}<|im_user|>{{ m.content }}<|im_end|>{% endfor %}"
        "{% if tools %}{{ tools | tojson }}{% endif %}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def vocabulary_and_merges(folder):
    """Write vocab.json and merges.txt, the format that preceded tokenizer.json."""
    made = json.loads(bpe(folder, {}).to_str())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(made["vocab"]))
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in made["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n")
    config = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "be", "bos_token": "be", "unk_token": "be"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))


@contextlib.contextmanager
def hub(models):
    """Serve a hub on loopback.

    Args:
        models: Folders by repository name.

    Yields:
        The address, and a list that collects (method, path) of every request.
    """
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            requests.append((self.command, self.path))
            for name, folder in models.items():
                prefix, _, rest = self.path.partition("/resolve/")
                file = folder / rest.partition("/")[2]
                if prefix == f"/{name}" and rest and file.is_file():
                    return self._respond(200, file.read_bytes())
                if name in self.path:
                    return self._respond(404, b"Entry not found", "EntryNotFound")
            return self._respond(401, b"Repository not found", "RepoNotFound")

        do_HEAD = do_GET

        def _respond(self, status, body, code=None):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if code:
                self.send_header("X-Error-Code", code)
            revision = self.path.partition("/resolve/")[2].partition("/")[0]
            self.send_header("X-Repo-Commit", COMMIT if revision == "main" else revision)
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
