// A child in JavaScript: it counts its calls, and hands the count over where it is moved.
import { readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";

const { HUB_HANDOVER_FILE: handover, HUB_SOCKET: socket } = process.env;
let count = 0;
try {
  count = Number(readFileSync(handover, "utf8"));
} catch {
  // the first start has no state
}
createServer((request, answer) => {
  count += 1;
  answer.setHeader("Content-Type", "application/json");
  answer.end(JSON.stringify({ count, user: process.getuid(), in: "node" }));
}).listen(socket);
process.on("SIGTERM", () => {
  writeFileSync(handover, String(count));
  process.exit(0);
});
