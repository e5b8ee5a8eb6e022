// A trial's line is lit while the mouse is on it or on its line of the table; a click keeps it lit.
(function () {
  const lines = new Map(), rows = new Map(), kept = new Set();
  for (const group of document.querySelectorAll('[id^="parallel-trial-"]')) {
    lines.set(group.id.slice('parallel-trial-'.length), group);
  }
  const table = document.querySelector('table');
  if (!table || !lines.size) return;
  for (const row of table.tBodies[0].rows) rows.set(row.cells[1].textContent, row);
  const style = document.createElement('style');
  style.textContent = '#plot-parallel { grid-column: 1 / -1 } .dim path { opacity: .07 !important } .lit path { stroke-width: 3.5px !important; opacity: 1 !important }' +
    ' tr.lit { background: #fff3c4 } tr, [id^="parallel-trial-"] { cursor: pointer } [id^="parallel-trial-"] path { pointer-events: stroke }';
  document.head.append(style);
  function show(also) {
    const lit = new Set(kept);
    if (also !== null) lit.add(also);
    for (const [trial, group] of lines) {
      group.classList.toggle('lit', lit.has(trial));
      group.classList.toggle('dim', lit.size > 0 && !lit.has(trial));
    }
    for (const [trial, row] of rows) row.classList.toggle('lit', lit.has(trial));
  }
  function listen(element, trial) {
    element.addEventListener('mouseenter', () => show(trial));
    element.addEventListener('mouseleave', () => show(null));
    element.addEventListener('click', () => { kept.delete(trial) || kept.add(trial); show(null); });
  }
  for (const [trial, group] of lines) {
    const title = document.createElementNS('http://www.w3.org/2000/svg', 'title');
    const row = rows.get(trial);
    title.textContent = 'trial ' + trial + (row ? ': ' + [...row.cells].slice(2).map(cell => cell.textContent).join(', ') : '');
    group.append(title);
    listen(group, trial);
    if (row) listen(row, trial);
  }
})();
