// Coming in where the API needs a token. The token is sent once, to /login, and kept nowhere: the browser has a cookie
// from then on that no script can read, and that may only read. So every other module just fetches, and EventSource works.
//
//   const response = await fetch("/api/v1/verdict");
//   if (response.status === 401) drawAccess(element, () => start());

/** Whether an answer means that one has to come in first. */
export function isLockedOut(response) {
  return response.status === 401;
}

/** Shows a token once; resolves to "" where it is taken, else to what is wrong, in words. */
export async function signIn(token) {
  let response;
  try {
    response = await fetch("login", { method: "POST", headers: { Authorization: `Bearer ${token}` } });
  } catch {
    return "The API does not answer. Is it running?";
  }
  if (response.ok) return "";
  if (response.status === 401) return "That token is not known.";
  try {
    return (await response.json()).detail;
  } catch {
    return `The API answers ${response.status}.`;
  }
}

/** Ends the session of this browser. */
export async function signOut() {
  await fetch("logout", { method: "POST" });
}

/** A form for the token in `element`, in place of what is there. Calls `done` when one is in. */
export function drawAccess(element, done) {
  const form = document.createElement("form");
  form.className = "access";
  form.autocomplete = "off";
  const label = document.createElement("label");
  label.textContent = "Token";
  label.htmlFor = "access-token";
  const input = document.createElement("input");
  Object.assign(input, { id: "access-token", type: "password", required: true, minLength: 16, autocomplete: "off" });
  input.setAttribute("aria-describedby", "access-said");
  const button = document.createElement("button");
  button.type = "submit";
  button.textContent = "Open";
  const said = document.createElement("p");
  said.id = "access-said";
  said.setAttribute("role", "status");
  said.textContent = "This API is asked with a token: one of serve.tokens. It is sent once and not kept.";
  form.append(label, input, button, said);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    const wrong = await signIn(input.value.trim());
    button.disabled = false;
    if (wrong) {
      input.setAttribute("aria-invalid", "true");
      said.setAttribute("role", "alert");
      said.textContent = wrong;
      input.select();
      return;
    }
    input.value = "";
    form.remove();
    done();
  });
  element.replaceChildren(form);
  input.focus();
}
