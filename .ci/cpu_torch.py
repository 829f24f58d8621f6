"""Makes PyTorch's wheel usable without CUDA: it is linked with 3 GB of CUDA's libraries, and calls none of them on a CPU.

    cpu_torch.py SITE_PACKAGES

Puts a library of each name next to the wheel's own. Every function that the wheel asks for is in one of them, and returns
CUDA's error "no device". Needs readelf, nm and a C compiler.
"""
import pathlib, re, subprocess, sys, tempfile

CUDA = re.compile(r"lib(cu|nccl|nv)")
# Functions that return a text.
TEXT = re.compile("(String|Name|ncclGetLastError)$")
NO_DEVICE = 100


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main(lib):
    # Which library has which versions of symbols, and which symbols of which version are asked for.
    needed, versions, symbols = set(), {}, {}
    for path in lib.glob("lib*.so"):
        needed.update(filter(CUDA.match, re.findall(r"NEEDED.*\[(.+)\]", output("readelf", "-dW", path))))
        library = ""
        for line in output("readelf", "-VW", path).splitlines():
            if found := re.search(r"File: (\S+)", line):
                library = found[1]
            elif (found := re.search(r"Name: (\S+)", line)) and CUDA.match(library):
                versions[found[1]] = library
        for line in output("nm", "-D", "--undefined-only", path).splitlines():
            name, _, version = line.split()[-1].partition("@")
            symbols[name] = version
    for library in sorted(needed):
        groups = {version: [name for name in symbols if symbols[name] == version] for version in versions if versions[version] == library}
        script = "".join(f"{version} {{ {'global: ' + '; '.join(names) + ';' if names else ''} }};\n" for version, names in groups.items())
        names = sum(groups.values(), [])
        if library.startswith("libnccl"):
            # Those without a version: all are in this library, which is loaded with the others.
            names += [name for name in symbols if not symbols[name] and re.match("cu|nccl|nv", name)]
        with tempfile.TemporaryDirectory() as work:
            source, map_file = pathlib.Path(work, "source.c"), pathlib.Path(work, "versions.map")
            text = lambda name: f'const char *{name}(void) {{ return "no CUDA"; }}\n'
            error = lambda name: f"int {name}(void) {{ return {NO_DEVICE}; }}\n"
            source.write_text("".join((text if TEXT.search(name) else error)(name) for name in names))
            map_file.write_text(script)
            linker = [f"-Wl,-soname,{library}", *([f"-Wl,--version-script,{map_file}"] if script else [])]
            subprocess.run(["cc", "-shared", "-w", "-fno-builtin", "-o", lib / library, *linker, source], check=True)


main(pathlib.Path(sys.argv[1]) / "torch/lib")
