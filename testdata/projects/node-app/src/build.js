// Turns pages/*.md into dist/pages.json.
const fs = require("fs");
const path = require("path");
const { marked } = require("marked");

const pages = {};
for (const file of fs.readdirSync("pages").sort()) {
  const text = fs.readFileSync(path.join("pages", file), "utf8");
  pages["/" + path.basename(file, ".md")] = marked.parse(text, { mangle: false, headerIds: false });
}
fs.mkdirSync("dist", { recursive: true });
fs.writeFileSync("dist/pages.json", JSON.stringify(pages, null, 2));
console.log(`built ${Object.keys(pages).length} pages`);
