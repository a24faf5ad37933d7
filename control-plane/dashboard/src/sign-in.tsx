// Shown when the API does not know who asks.
import { useState } from "preact/hooks";
import { refused, signIn } from "./api/client";
import { Mark } from "./ui/icons";
import { Command, Notice } from "./ui/parts";

export function SignIn() {
  const [value, set] = useState("");
  const submit = (event: Event) => {
    event.preventDefault();
    if (value.trim()) signIn(value.trim());
  };
  return (
    <main class="sign-in">
      <div class="panel">
        <h1 tabIndex={-1}><Mark /> Sign in to Weft</h1>
        {refused.value ? <Notice health="bad" role="alert">The control plane refuses this token: {refused.value}</Notice> : null}
        <form onSubmit={submit}>
          <label class="field">
            <span>Token</span>
            <input type="password" name="token" autocomplete="off" spellcheck={false} required value={value} onInput={(event) => set(event.currentTarget.value)} />
          </label>
          <button type="submit" class="button primary">Sign in</button>
        </form>
        <ul>
          <li><p class="dim">With the rights of your kubeconfig, without a token:</p><Command text="weft dashboard" /></li>
          <li><p class="dim">A token of a service account:</p><Command text="kubectl create token NAME -n NAMESPACE" /></li>
        </ul>
        <p class="small dim">The token stays in this tab and goes to this control plane alone.</p>
      </div>
    </main>
  );
}
