// Compiles a contract of the tests: `node compile.js UsdcLike.sol token.json`, beside the node_modules of package.json.
// A file has one contract, of its name. Written out: the code that creates it, and in which storage slot each of its
// variables is.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const solc = require("solc");

const [source, target] = process.argv.slice(2);
const contract = path.basename(source, ".sol");
const input = {
  language: "Solidity",
  sources: { [source]: { content: fs.readFileSync(source, "utf8") } },
  settings: {
    evmVersion: "cancun",
    optimizer: { enabled: true },
    outputSelection: { [source]: { [contract]: ["evm.bytecode.object", "storageLayout"] } },
  },
};
const read = (path) => ({ contents: fs.readFileSync(require.resolve(path), "utf8") });
const output = JSON.parse(solc.compile(JSON.stringify(input), { import: read }));

if (output.errors) {
  console.error(output.errors.map((each) => each.formattedMessage).join("\n"));
  process.exit(1);
}
const { evm, storageLayout } = output.contracts[source][contract];
const slots = Object.fromEntries(storageLayout.storage.map(({ label, slot }) => [label, Number(slot)]));
fs.writeFileSync(target, JSON.stringify({ creationCode: "0x" + evm.bytecode.object, slots }) + "\n");
