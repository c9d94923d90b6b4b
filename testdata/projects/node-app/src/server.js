// Serves the built pages; with --list it prints their names and ends.
const fs = require("fs");
const path = require("path");
const polka = require("polka");

const file = path.join(__dirname, "..", "dist", "pages.json");
const pages = JSON.parse(fs.readFileSync(file, "utf8"));

if (process.argv.includes("--list")) {
  console.log(Object.keys(pages).join("\n"));
} else {
  const app = polka();
  for (const [name, html] of Object.entries(pages)) {
    app.get(name, (request, response) => {
      response.setHeader("content-type", "text/html; charset=utf-8");
      response.end(html);
    });
  }
  const address = { host: process.env.HOST || "0.0.0.0", port: Number(process.env.PORT || 3000) };
  app.listen(address, () => console.log(`serving ${Object.keys(pages).length} pages`));
}
