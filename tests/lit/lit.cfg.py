# Runs every .mlir and .test file here. Each says how in its RUN lines.
import os

import lit.formats

config.name = "bitloom"
config.test_format = lit.formats.ShTest(execute_external=False)
config.suffixes = [".mlir", ".test"]
config.excludes = ["Inputs"]
config.test_source_root = os.path.dirname(__file__)
config.test_exec_root = os.path.join(config.bitloom_build, "tests", "lit", "output")
config.substitutions += [
    ("%python", config.python),
    ("%source", config.bitloom_source),
    ("%build", config.bitloom_build),
]
config.environment["PATH"] = os.pathsep.join(
    [os.path.join(config.bitloom_build, "bin"), config.llvm_tools, os.environ["PATH"]]
)
